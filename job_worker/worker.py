"""The core of a job worker, without a process around it: queue in, conn servers out.

open_worker
 |- queue consumers, one per partition      opened first, closed last: what is still on loan is given back
 `- nursery
     |- intakes, one per consumer           stop first on drain
     |- feeds, one per active room          flush next
     `- touching, the lanes' clock
run_lane, once per conn server              in a nursery of the caller's, inside of open_worker
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Final

import trio
from structlog.typing import FilteringBoundLogger

from job_worker.consumer import Intake, Loan, Loans, LoansStatistics
from job_worker.delivery import ConnServer, DeliveryStatistics, Lanes
from job_worker.dispatch import Dispatch, DispatchStatistics
from job_worker.lane import Lane
from job_worker.settings import JobSettings
from runtime.queue import Consumer, Queue
from schema.names import topic_of

LEAST_KNOWN: Final = 4096
KNOWN_PER_LOAN: Final = 16


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """The statistics of the three parts."""

    GAUGES: ClassVar = (
        *(f"loans_{name}" for name in ("on_loan", "known")),
        "dispatch_feeds",
        *(
            f"delivery_{name}"
            for name in ("lanes", "detached_lanes", "slow_lanes", "behind_lanes", "held", "held_bytes")
        ),
    )

    loans: LoansStatistics
    dispatch: DispatchStatistics
    delivery: DeliveryStatistics


class Worker:
    """One job worker.  `open_worker` owns it; it dies with that context.

    Attributes:
        consumers: one per partition; paused while there is no conn server.
    """

    def __init__(
        self,
        settings: JobSettings,
        consumers: Sequence[Consumer],
        loans: Loans,
        feeds: trio.Nursery,
        log: FilteringBoundLogger,
    ) -> None:
        self.consumers = tuple(consumers)
        self._lanes = Lanes(settings.lane, log, on_presence=self._note_presence)
        self._loans = loans
        self._dispatch = Dispatch[Loan](settings.room, self._lanes, loans.settle, feeds)
        self._intakes = [Intake(consumer, loans, self._dispatch) for consumer in consumers]
        self._consuming = trio.CancelScope()
        self._consumed = trio.Event()
        self._is_draining = False

    @property
    def has_conn_servers(self) -> bool:
        """Whether there is anybody to deliver to, and therefore anything consumed."""
        return self._lanes.is_present

    def start(self, nursery: trio.Nursery) -> None:
        """Start what runs for as long as the worker does."""
        nursery.start_soon(self._consume, name="intakes")
        nursery.start_soon(self._loans.run_touching, name="touching")
        nursery.start_soon(self._lanes.run_clock, name="lanes' clock")

    async def run_lane(
        self, name: str, server: ConnServer, *, task_status: trio.TaskStatus[Lane] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Deliver to one more conn server until cancelled; see `Lanes.run_lane`."""
        await self._lanes.run_lane(name, server, task_status=task_status)

    async def drain(self, deadline: float) -> None:
        """Stop in order: consumers, then feeds, which flush, then lanes, until all is finished in the queue.

        Ends at `deadline` (Trio's time) at the latest; what is on loan then goes back to the queue.  Nothing
        is consumed afterwards.
        """
        self._is_draining = True
        for consumer in self.consumers:
            consumer.pause()
        self._consuming.cancel()
        with trio.move_on_at(deadline):
            await self._consumed.wait()
            async with trio.open_nursery() as rest:
                for intake in self._intakes:
                    rest.start_soon(intake.run_rest)
            await self._dispatch.drain()
            await self._loans.wait_settled()
        self._loans.give_back()

    async def _consume(self) -> None:
        with self._consuming:
            async with trio.open_nursery() as intakes:
                for intake in self._intakes:
                    intakes.start_soon(intake.run)
        self._consumed.set()

    def _note_presence(self, is_present: bool) -> None:  # noqa: FBT001  a callback
        for consumer in self.consumers:
            if is_present and not self._is_draining:
                consumer.resume()
            else:
                consumer.pause()

    def statistics(self) -> WorkerStatistics:
        """Return what there is now and was so far."""
        return WorkerStatistics(
            self._loans.statistics(), self._dispatch.statistics(), self._lanes.statistics()
        )


@asynccontextmanager
async def open_worker(
    settings: JobSettings, queue: Queue, log: FilteringBoundLogger
) -> AsyncIterator[Worker]:
    """Open a worker on `queue`; it consumes as soon as and as long as a `run_lane` runs.

    Of the settings `room`, `lane` and `nsq` (topic, partitions, channel, max_in_flight, msg_timeout_s) are
    used.  Run the lanes in a nursery inside of this context, call `drain`, end that nursery, leave.
    Leaving, also by cancellation, gives back to the queue what is not finished.
    """
    nsq = settings.nsq
    share = max(1, nsq.max_in_flight // nsq.partitions)
    loans = Loans(max(LEAST_KNOWN, KNOWN_PER_LOAN * nsq.max_in_flight), nsq.msg_timeout_s, log)
    async with AsyncExitStack() as stack:
        consumers = [
            await stack.enter_async_context(
                queue.open_consumer(
                    topic_of(nsq.topic, number, nsq.partitions), nsq.channel, max_in_flight=share
                )
            )
            for number in range(nsq.partitions)
        ]
        try:
            async with trio.open_nursery() as nursery:
                worker = Worker(settings, consumers, loans, nursery, log)
                worker.start(nursery)
                try:
                    yield worker
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            loans.give_back()
