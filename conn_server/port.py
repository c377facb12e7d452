"""The client port as a whole: its sockets, its poller, its clients, and how they are sent away.

serve_port
 |- poller.run, poller.sweep           all client sockets; end last
 `- clients                            deadline := the drain's, once it has begun
     |- listener.accept                one per listening socket, and turns.run for all; they stop first
     |- client.run                     one per client
     `- HTTP                           one per connection that is no WebSocket
"""

from __future__ import annotations

import socket
from math import inf

import trio
from structlog.typing import FilteringBoundLogger

from conn_server.broadcast import Broadcaster
from conn_server.client import Node
from conn_server.connection import Connection, Wire
from conn_server.listener import Http, Listener
from conn_server.rejection import Rejection
from conn_server.settings import WebSocket
from conn_server.sockets import tls_context
from runtime.metrics import Metrics
from runtime.sections import ClientDrain
from schema.closing import CloseCode, draining_reason

DRAINING = Rejection(503, "draining", "this node is going away, try again")


class ClientPort:
    """Everything behind one client port.  Owned by the composition root; dies with `run`.

    Args:
        settings: of the port.
        farewell: how clients are sent away.
        wire: what all connections share.
        node: what all clients share.
        http: serves what is no upgrade.
        log: of the service.
    """

    def __init__(
        self,
        settings: WebSocket,
        farewell: ClientDrain,
        wire: Wire,
        node: Node,
        http: Http,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._farewell = farewell
        self._wire = wire
        self._node = node
        self._http = http
        self._log = log
        self._tls = tls_context(settings)
        self._draining = trio.Event()
        self._deadline = inf
        self.broadcaster = Broadcaster(node.rooms, joins=self._tls is None)

    def drain(self, deadline: float) -> None:
        """Stop accepting and send all clients away; `run` ends when they are gone, or at `deadline`."""
        self._deadline = deadline
        self._draining.set()

    async def run(
        self,
        sockets: list[socket.socket],
        metrics: Metrics,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve clients that come to `sockets`, which are closed at the end, until drained.

        Cancellation closes all sockets at once, without close frames.
        """
        try:
            async with trio.open_nursery() as driving:
                await driving.start(self._wire.poller.run)
                driving.start_soon(self._wire.poller.sweep, self._settings.sweep_interval_s)
                async with trio.open_nursery() as clients:
                    listener = Listener(
                        self._settings, self._wire, self._node, self._http, clients, self._tls
                    )
                    self._register(metrics, listener)
                    async with trio.open_nursery() as accepting:
                        accepting.start_soon(listener.turns.run)
                        for sock in sockets:
                            accepting.start_soon(listener.accept, sock)
                        task_status.started()
                        await self._draining.wait()
                        accepting.cancel_scope.cancel()
                    for sock in sockets:
                        sock.close()
                    clients.cancel_scope.deadline = self._deadline
                    listener.doorway.refusal = DRAINING
                    self._http.drain()
                    await self._send_away()
                driving.cancel_scope.cancel()
        finally:
            for sock in sockets:
                sock.close()

    async def _send_away(self) -> None:
        """Send 1001 in steps, so that not all clients come back to the other nodes in the same moment."""
        reason = draining_reason(int(self._farewell.retry_after_s * 1000))
        connections = [handler for handler in self._wire.poller.handlers() if isinstance(handler, Connection)]
        self._log.info("sending clients away", clients=len(connections))
        for start in range(0, len(connections), self._farewell.step_connections):
            for connection in connections[start : start + self._farewell.step_connections]:
                connection.drain(CloseCode.GOING_AWAY, reason)
            await trio.sleep(self._farewell.step_interval_s)

    def _register(self, metrics: Metrics, listener: Listener) -> None:
        metrics.register("poller", self._wire.poller.statistics, gauges=("sockets",))
        metrics.register("clients", self._wire.statistics)
        metrics.register("sessions", self._node.refusals.statistics)
        metrics.register("rooms", self._node.rooms.statistics, gauges=("rooms", "memberships"))
        metrics.register("admission", self._node.admission.statistics, gauges=("connections", "addresses"))
        metrics.register("openings", listener.doorway.statistics)
        metrics.register("listener", listener.statistics, gauges=("held", "refusals"))
        metrics.register("broadcast", self.broadcaster.statistics)
