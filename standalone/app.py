"""The three services in one process: what `make run` starts.

serve
 |- admin port, loop lag                 outlive everything else
 `- the embedded queue
     |- job worker (job_worker/worker.py) and its one lane, to the port below
     `- client port (conn_server/port.py)
         sign-ins and publishes go to logic, and from there into the queue, by plain calls

On drain nothing more is taken, what was taken is delivered, and then the clients are sent away.  The queue
ends with the process, so it is emptied before its consumer stops.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

from conn_server.app import make_port
from conn_server.broadcast import Broadcaster
from conn_server.sockets import open_sockets
from job_worker.worker import Worker, WorkerStatistics, open_worker
from logic_server.logic import Logic, LogicStatistics, make_logic
from runtime.admin import Readiness, open_admin
from runtime.lifecycle import Drain
from runtime.metrics import Metrics
from runtime.queue.memory import MemoryConsumer, MemoryQueue
from runtime.tokens import token_authority
from runtime.units import format_address
from schema.access import Grant, Refused, Unavailable
from schema.message import Message, Push
from schema.tokens import TokenAuthority
from standalone.settings import StandaloneSettings

MADE_UP_KEY_BYTES: Final = 32
CLIENTS: Final = "client port"
QUEUE_GAUGES: Final = ("messages", "size_bytes", "waiting", "on_loan", "deferred")
DRAIN_SHARE: Final = 0.5
"""Of what is left of the drain, at most, for each of its steps; the last is the clients' farewell."""
LOOK_INTERVAL_S: Final = 0.01
"""How often a drain looks whether the queue is empty: the queue itself tells only those who take from it."""


@dataclass(frozen=True, slots=True)
class Standalone:
    """Where the system is."""

    http_url: str
    websocket_url: str
    admin_url: str


class Gate:
    """Logic, until the process drains: what would be taken then could not be delivered any more.

    Owned by `serve`.

    Attributes:
        under_way: publishes that are not answered yet.
    """

    def __init__(self, logic: Logic, drain: Drain) -> None:
        self._logic = logic
        self._drain = drain
        self.under_way = 0

    async def authenticate(self, token: str) -> Grant:
        """Return what `token` allows; see `conn_server.client.Logic`."""
        return await self._logic.authenticate(token)

    async def publish(self, message: Message) -> None:
        """Hand `message` to the queue; see `conn_server.client.Logic`."""
        if self._drain.draining.is_set():
            raise Unavailable("the server is going away, try again later")
        self.under_way += 1
        try:
            await self._logic.publish(message)
        finally:
            self.under_way -= 1


class OwnPort:
    """The client port of this process: the job worker's only conn server."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def broadcast(self, pushes: Sequence[Push]) -> Sequence[Refused | None]:
        """Send `pushes`; see `job_worker.delivery.ConnServer`."""
        await self._broadcaster.broadcast(*pushes)
        return [None] * len(pushes)


async def serve(
    settings: StandaloneSettings,
    drain: Drain,
    log: FilteringBoundLogger,
    *,
    task_status: trio.TaskStatus[Standalone] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `drain` has begun, what was taken is delivered and the clients are gone.

    Args:
        settings: all of them.
        drain: begins the stop, and has its deadline.
        log: for what an operator should know.
        task_status: gets the addresses, once clients can come.

    Raises:
        runtime.failures.SetupError, OSError: what is to be mended in the settings; maybe in a group.
    """
    conn, nsq = settings.conn, settings.job.nsq
    tokens = make_tokens(settings, log)
    admin_address = conn.admin.address(conn.registration.listen_address)
    queue = MemoryQueue(msg_timeout_s=nsq.msg_timeout_s)
    async with (
        open_admin(admin_address, Readiness(CLIENTS), log) as admin,
        queue.open_producer() as producer,
        open_worker(settings.job, queue, log) as worker,
        trio.open_nursery() as lanes,
    ):
        logic = make_logic(settings.logic, tokens, producer, unix_now=time.time)
        gate = Gate(logic, drain)
        port = make_port(conn, gate, tokens, admin.metrics, log)
        register(admin.metrics, queue, logic, worker)
        await lanes.start(worker.run_lane, "client port", OwnPort(port.broadcaster))
        async with trio.open_nursery() as clients:
            sockets = open_sockets(conn.websocket)
            address = format_address(*sockets[0].getsockname()[:2])
            await clients.start(port.run, sockets, admin.metrics)
            admin.readiness.meet(CLIENTS)
            log.info("serving", clients=address, admin=admin.address)
            tls, path = "s" if conn.websocket.tls_cert else "", conn.websocket.path
            task_status.started(
                Standalone(f"http{tls}://{address}", f"ws{tls}://{address}{path}", f"http://{admin.address}")
            )
            await drain.draining.wait()
            admin.readiness.fail("drain", "draining")
            with trio.move_on_after(DRAIN_SHARE * drain.remaining_s()):
                await wait_taken(gate, queue)
            await worker.drain(trio.current_time() + DRAIN_SHARE * drain.remaining_s())
            port.drain(drain.deadline)
        lanes.cancel_scope.cancel()


def register(metrics: Metrics, queue: MemoryQueue, logic: Logic, worker: Worker) -> None:
    """Show the numbers of what is not behind the client port."""
    metrics.register("queue", queue.statistics, gauges=QUEUE_GAUGES)
    metrics.register("logic", logic.statistics, gauges=LogicStatistics.GAUGES)
    metrics.register("job", worker.statistics, gauges=WorkerStatistics.GAUGES)
    for number, consumer in enumerate(worker.consumers):
        if isinstance(consumer, MemoryConsumer):
            labels = {"partition": str(number)}
            metrics.register("consumer", consumer.statistics, gauges=("on_loan",), labels=labels)


async def wait_taken(gate: Gate, queue: MemoryQueue) -> None:
    """Wait until every publish is answered and the job worker has taken all of it; the drain bounds it."""
    while True:
        held = queue.statistics()
        if not (gate.under_way or held.waiting or held.deferred):
            return
        await trio.sleep(LOOK_INTERVAL_S)


def make_tokens(settings: StandaloneSettings, log: FilteringBoundLogger) -> TokenAuthority:
    """Return who issues and checks tokens; without a secret in the settings one is made up.

    Raises:
        SetupError: the secret is there and cannot be used.
    """
    if settings.token.secret is not None:
        return token_authority(settings.token, log)
    log.info("no token secret is set: made one up, tokens end with this process")
    return TokenAuthority(secrets.token_bytes(MADE_UP_KEY_BYTES))
