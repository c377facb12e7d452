"""The embedded queue's way out: consumers, their deliveries, and NSQ's faults on demand.

There is no task: who waits for a delivery also wakes up when a loan of its channel times out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from runtime.queue.memory_store import Channel, Loan

# Deliveries given out, or calls of a producer, between two that let other tasks run.
_FAIR: Final = 32


async def take_turn(count: int) -> None:
    """Let other tasks run at one `count` of many; a checkpoint for cancellation at each."""
    if count % _FAIR:
        await trio.lowlevel.checkpoint_if_cancelled()
    else:
        await trio.lowlevel.checkpoint()


def _never(_body: bytes, _attempt: int) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Faults:
    """Which deliveries go wrong, by their body and their number of attempts, from 1.

    Attributes:
        strand: it goes to a consumer that is dead without nsqd knowing, and comes at the tail, late.
        lose_finish: its `finish` does not arrive, and what was finished comes again at the tail.
    """

    strand: Callable[[bytes, int], bool] = _never
    lose_finish: Callable[[bytes, int], bool] = _never


NO_FAULTS: Final = Faults()


@dataclass(frozen=True, slots=True)
class MemoryConsumerStatistics:
    """What a consumer holds and has done.

    Attributes:
        on_loan: now.
        received: deliveries, `redelivered` of them not for the first time.
        answers: `finished`, `requeued`, `touched`; `late` and `repeated` changed nothing; `returned` were
            given back when the consumer was closed.
    """

    on_loan: int
    received: int
    redelivered: int
    answers: dict[str, int]


class MemoryDelivery:
    """A `runtime.queue.Delivery`."""

    __slots__ = ("_consumer", "_is_answered", "_loan", "attempts", "body", "touched_at")

    def __init__(self, loan: Loan, consumer: MemoryConsumer) -> None:
        self.body = loan.message.body
        self.attempts = loan.message.attempts
        self.touched_at = trio.current_time()
        self._loan = loan
        self._consumer = consumer
        self._is_answered = False

    @property
    def is_open(self) -> bool:
        """Whether an answer would still count."""
        return not self._is_answered and self._consumer.is_open(self._loan)

    def finish(self) -> None:
        """Done: never deliver it again.  Late or repeated, it changes nothing and is counted."""
        if self._may_answer():
            self._is_answered = True
            self._consumer.finish(self._loan)

    def requeue(self, delay_s: float = 0.0) -> None:
        """Deliver it again, at the tail, after `delay_s`.  Late or repeated, it changes nothing."""
        if self._may_answer():
            self._is_answered = True
            self._consumer.requeue(self._loan, delay_s)

    def touch(self) -> None:
        """Start the time limit anew."""
        if self._may_answer():
            self.touched_at = trio.current_time()
            self._consumer.touch(self._loan)

    def _may_answer(self) -> bool:
        is_open = self.is_open
        if not is_open:
            self._consumer.count("repeated" if self._is_answered else "late")
        return is_open


class MemoryConsumer:
    """A `runtime.queue.Consumer`.  `MemoryQueue.open_consumer` owns it; it dies with that context."""

    def __init__(
        self, channel: Channel, waiting: trio.lowlevel.ParkingLot, max_in_flight: int, faults: Faults
    ) -> None:
        self._channel = channel
        self._waiting = waiting  # of all consumers of the channel
        self._max_in_flight = max_in_flight
        self._faults = faults
        self._is_paused = True
        self._is_closing = False
        self._received = self._redelivered = self.stranded = 0
        self._answers: Counter[str] = Counter()

    async def receive(self) -> MemoryDelivery:
        """Wait for the next delivery.  Cancellation loses nothing.

        Raises:
            trio.ClosedResourceError: the consumer's context has been left.
        """
        await take_turn(self._received)
        while not self._is_closing:
            if delivery := self._take_nowait():
                return delivery
            with trio.move_on_at(self._channel.due):
                await self._waiting.park()
        raise trio.ClosedResourceError

    def pause(self) -> None:
        """Ask for nothing more; what is on loan stays on loan."""
        self._is_paused = True

    def resume(self) -> None:
        """Ask for deliveries again."""
        self._is_paused = False
        self._waiting.unpark_all()

    def statistics(self) -> MemoryConsumerStatistics:
        """Return what there is now and was so far."""
        self._channel.settle(trio.current_time())
        return MemoryConsumerStatistics(
            on_loan=self._channel.held[self],
            received=self._received,
            redelivered=self._redelivered,
            answers=dict(self._answers),
        )

    def _take_nowait(self) -> MemoryDelivery | None:
        now = trio.current_time()
        self._channel.settle(now)
        while not self._is_paused and self._channel.held[self] < self._max_in_flight:
            loan = self._channel.lend(self, now)
            if loan is None:
                return None
            if not self._faults.strand(loan.message.body, loan.message.attempts):
                self._received += 1
                self._redelivered += loan.message.attempts > 1
                return MemoryDelivery(loan, self)
            self._channel.strand(loan)
            self.stranded += 1
        return None

    # -- told by deliveries

    def is_open(self, loan: Loan) -> bool:
        return self._channel.is_open(loan, trio.current_time())

    def count(self, what: str) -> None:
        self._answers[what] += 1

    def finish(self, loan: Loan) -> None:
        self.count("finished")
        if self._faults.lose_finish(loan.message.body, loan.message.attempts):
            self._channel.strand(loan)
        else:
            self._channel.finish(loan)
        if self._channel.queue or self._is_closing:  # else nobody waits for room, or for the last answer
            self._waiting.unpark_all()

    def requeue(self, loan: Loan, delay_s: float) -> None:
        self.count("requeued")
        self._channel.requeue(loan, trio.current_time(), delay_s)
        self._waiting.unpark_all()

    def touch(self, loan: Loan) -> None:
        self.count("touched")
        self._channel.touch(loan, trio.current_time())

    # -- the end

    def stop_nowait(self) -> None:
        """Give out nothing more."""
        self._is_closing = True
        self._waiting.unpark_all()

    async def wait_answered(self) -> None:
        """Wait until nothing is on loan."""
        while self._channel.held[self]:
            with trio.move_on_at(self._channel.due):
                await self._waiting.park()
            self._channel.settle(trio.current_time())

    def close_nowait(self) -> None:
        """Give back what is on loan."""
        self.stop_nowait()  # which also wakes those who get it
        now = trio.current_time()
        self._channel.settle(now)
        for loan in self._channel.loans_of(self):
            self._channel.requeue(loan, now)
            self.count("returned")
