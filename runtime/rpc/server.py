"""Serving grpclib's generated bases on Trio.

::

    serve_rpc
     |- accept loop              stops first on drain
     `- per connection, one task: TLS handshake, then Link.run
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import structlog
import trio
from grpclib import const
from structlog.typing import FilteringBoundLogger

from runtime.rpc.handling import CallHandler
from runtime.rpc.limits import RpcLimits
from runtime.rpc.link import Link
from runtime.rpc.statistics import Counters, RpcStatistics
from runtime.rpc.transport import bound_silence
from runtime.units import format_address, parse_peer, split_address

_log: Final[FilteringBoundLogger] = structlog.get_logger("rpc")


class Service(Protocol):
    """An instance of a generated base (`class Logic(LogicBase)`)."""

    def __mapping__(self) -> dict[str, const.Handler]:
        """Return the handlers by method name."""


class RpcServer:
    """The server that `serve_rpc` runs, for those who steer and watch it.  Dies with that task.

    Attributes:
        addresses: where it listens, as "host:port".
        stopping: set when it begins to drain.
    """

    def __init__(self, services: Iterable[Service], limits: RpcLimits) -> None:
        self.addresses: tuple[str, ...] = ()
        self.stopping = trio.Event()
        self._methods = {name: handler for each in services for name, handler in each.__mapping__().items()}
        self._limits = limits
        self._counters = Counters()
        self._links: set[Link] = set()
        self._link_ended = trio.lowlevel.ParkingLot()
        self._grace_s = 0.0

    def drain(self, grace_s: float) -> None:
        """Begin a graceful stop; `serve_rpc` returns when it is done.

        No connection and no call is taken any more (clients are told so and go elsewhere), calls may end
        within `grace_s` seconds, and what is left then ends with UNAVAILABLE.  A second call changes nothing.
        """
        if not self.stopping.is_set():
            self._grace_s = grace_s
            self.stopping.set()

    def statistics(self) -> RpcStatistics:
        """Return what its calls and connections have come to."""
        return self._counters.statistics()

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        tls: ssl.SSLContext | None,
        task_status: trio.TaskStatus[RpcServer],
    ) -> None:
        """Serve until drained or cancelled; `serve_rpc` for everybody else."""
        self.addresses = tuple(format_address(*each.socket.getsockname()[:2]) for each in listeners)
        async with trio.open_nursery() as connections:
            accepting = trio.CancelScope()
            connections.start_soon(self._accept, listeners, tls, accepting, connections)
            task_status.started(self)
            await self.stopping.wait()
            accepting.cancel()
            for link in list(self._links):
                link.drain()
            with trio.move_on_after(self._grace_s):
                while self._links:
                    await self._link_ended.park()
            connections.cancel_scope.cancel()

    async def _accept(
        self,
        listeners: Sequence[trio.SocketListener],
        tls: ssl.SSLContext | None,
        accepting: trio.CancelScope,
        connections: trio.Nursery,
    ) -> None:
        async def serve_connection(stream: trio.SocketStream) -> None:
            await self._serve_connection(stream, tls)

        with accepting:
            await trio.serve_listeners(serve_connection, list(listeners), handler_nursery=connections)

    async def _serve_connection(self, stream: trio.SocketStream, tls: ssl.SSLContext | None) -> None:
        """Serve one connection; nothing that happens to it leaves here."""
        try:
            bound_silence(stream, self._limits.stall_s)
            secured = await self._secure(stream, tls)
            if secured is not None:
                await self._run_link(secured)
        except* Exception:
            self._counters.failures["internal error"] += 1
            _log.exception("connection failed within the server")

    async def _secure(self, stream: trio.SocketStream, tls: ssl.SSLContext | None) -> trio.abc.Stream | None:
        """Make the TLS handshake, in time; None if the peer did not."""
        if tls is None:
            return stream
        secured = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        try:
            with trio.move_on_after(self._limits.connect_s):
                await secured.do_handshake()
                return secured
            self._counters.failures["tls handshake timeout"] += 1
        except (trio.BrokenResourceError, ssl.SSLError):
            self._counters.failures["tls handshake"] += 1
        await trio.aclose_forcefully(stream)
        return None

    async def _run_link(self, stream: trio.abc.Stream) -> None:
        if self.stopping.is_set():
            await trio.aclose_forcefully(stream)
            return
        handler = CallHandler(self._methods, self._counters, self.stopping)
        link = Link(
            handler, self._limits, self._counters, client_side=False, keepalive_s=self._limits.keepalive_s
        )
        handler.link = link
        self._links.add(link)
        try:
            await link.run(stream)
        finally:
            self._links.discard(link)
            self._link_ended.unpark_all()


async def open_listeners(address: str) -> list[trio.SocketListener]:
    """Listen on `address` ("host:port"; port 0: any).

    Raises:
        OSError: the address is taken, or not ours.
        ValueError: it is no address.
    """
    host, port = split_address(parse_peer(address))
    return await trio.open_tcp_listeners(port, host=host)


async def serve_rpc(
    services: Iterable[Service],
    listeners: Sequence[trio.SocketListener] | str,
    *,
    tls: ssl.SSLContext | None = None,
    limits: RpcLimits = RpcLimits(),  # noqa: B008  frozen
    task_status: trio.TaskStatus[RpcServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `services` until `RpcServer.drain` has been called and is done.

    Reports the `RpcServer` once it listens.  `listeners` are closed with it.  Nothing that a peer does and
    nothing that a handler raises ends it.  Cancelled, it ends at once: calls in flight with UNAVAILABLE,
    which is written out within `flush_s`.

    Raises:
        OSError: it cannot listen on the address.
    """
    opened = await open_listeners(listeners) if isinstance(listeners, str) else listeners
    await RpcServer(services, limits).serve(opened, tls, task_status)
