"""What is on loan from the queue, and when it is finished: the ack policy, all of it here.

    Consumer --> Intake --> Loans.take --> Dispatch.put --> feed, lanes --> Loans.settle --> finish, requeue
                                |  not understood: finished, counted, logged
                                |  its hand-over is done already: finished
                                '  under way already: answered together with that one

Rules
1. A delivery is finished when its batch has been handed over (handover.py), never before.
2. What could be handed to nobody is requeued after `REQUEUE_DELAY_S`; what is still on loan at the end, at
   once.
3. A message is known by (origin, origin_seq): while it is on loan, and afterwards until `window` others have
   been finished.  One without identity, a Go conn server's, is never taken for another.
4. What is on loan for longer is touched every third of the queue's time limit.
5. The same message requeued is forgotten, so that it is pushed when it comes again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from runtime.queue import Consumer, Delivery
from schema.message import Malformed, Message

REQUEUE_DELAY_S: Final = 3.0
REST_S: Final = 0.1
"""A paused consumer that gives nothing for so long has given all that was on its way."""
LOG_INTERVAL_S: Final = 1.0
LOGGED_BYTES: Final = 256

Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LoansStatistics:
    """Deliveries on loan and waiting to be touched; what became of others.

    Attributes:
        on_loan: messages that are not settled, now.
        known: identities of finished messages that would be recognised, now.
        taken: deliveries that became a message's first.
        finished: messages that were handed over.
        requeued: messages that were given back, by reason.
        malformed: deliveries that could not be understood; finished, never pushed.
        repeated: deliveries of a message that was finished already, or is on loan already, by which of them.
        touched: how often the time limit of one was started anew.
    """

    on_loan: int
    known: int
    taken: int
    finished: int
    requeued: dict[str, int]
    malformed: int
    repeated: dict[str, int]
    touched: int


class Loan:
    """One message and its deliveries.  Owned by `Loans` until it is settled."""

    __slots__ = ("deliveries", "identity", "message", "touched_at")

    def __init__(self, message: Message, delivery: Delivery) -> None:
        self.message = message
        self.identity: Identity | None = (message.origin, message.origin_seq) if message.origin else None
        self.deliveries = [delivery]
        self.touched_at = delivery.touched_at


class Loans:
    """All that one worker has on loan.  Owned by the worker; `give_back` ends it.

    Args:
        window: how many finished messages are remembered.
        msg_timeout_s: the queue's time limit for an answer.
        log: for what cannot be understood, one line a second at most.
    """

    def __init__(self, window: int, msg_timeout_s: float, log: FilteringBoundLogger) -> None:
        self._window = window
        self._touch_after_s = msg_timeout_s / 3
        self._log = log
        self._loans: dict[Loan, None] = {}
        self._open: dict[Identity, Loan] = {}
        self._finished: OrderedDict[Identity, None] = OrderedDict()
        self._settled = trio.lowlevel.ParkingLot()
        self._logged_at = float("-inf")
        self._counts: Counter[str] = Counter()
        self._requeued: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()

    def take(self, delivery: Delivery) -> Loan | None:
        """Return a new message's loan, or None: the delivery is answered, or will be with an earlier one."""
        try:
            message = Message.decode(delivery.body)
        except Malformed as exc:
            self._set_aside(delivery, exc)
            return None
        loan = Loan(message, delivery)
        identity = loan.identity
        if identity is not None:
            if (earlier := self._open.get(identity)) is not None:
                earlier.deliveries.append(delivery)
                self._repeated["on loan"] += 1
                return None
            if identity in self._finished:
                delivery.finish()
                self._repeated["finished"] += 1
                return None
            self._open[identity] = loan
        self._loans[loan] = None
        self._counts["taken"] += 1
        return loan

    def _set_aside(self, delivery: Delivery, problem: Malformed) -> None:
        delivery.finish()
        self._counts["malformed"] += 1
        if trio.current_time() - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = trio.current_time()
            self._log.error(
                "not a message, set aside",
                problem=str(problem),
                body=delivery.body[:LOGGED_BYTES].hex(),
                body_bytes=len(delivery.body),
                malformed=self._counts["malformed"],
            )

    def settle(self, loans: Sequence[Loan], is_handed_over: bool) -> None:  # noqa: FBT001  a callback
        """Answer the deliveries of a batch, except those that have been given back."""
        for loan in loans:
            if loan not in self._loans:
                continue
            del self._loans[loan]
            identity = loan.identity
            if identity is not None:
                del self._open[identity]
            if is_handed_over:
                self._finish(loan, identity)
            else:
                self._requeue(loan, "nobody", REQUEUE_DELAY_S)
        self._settled.unpark_all()

    def _finish(self, loan: Loan, identity: Identity | None) -> None:
        for delivery in loan.deliveries:
            delivery.finish()
        self._counts["finished"] += 1
        if identity is not None:
            self._finished[identity] = None
            if len(self._finished) > self._window:
                self._finished.popitem(last=False)

    def _requeue(self, loan: Loan, reason: str, delay_s: float) -> None:
        for delivery in loan.deliveries:
            delivery.requeue(delay_s)
        self._requeued[reason] += 1

    async def wait_settled(self) -> None:
        """Wait until nothing is on loan."""
        while self._loans:
            await self._settled.park()

    def give_back(self) -> None:
        """Requeue all that is on loan; to settle it afterwards changes nothing."""
        for loan in self._loans:
            self._requeue(loan, "drain", 0.0)
        self._loans.clear()
        self._open.clear()

    async def run_touching(self) -> None:
        """Touch what is on loan for long, until cancelled."""
        while True:
            await trio.sleep(self._touch_after_s / 2)
            # What the next round would find too late is touched now.
            before = trio.current_time() - self._touch_after_s / 2
            for loan in self._loans:
                if loan.touched_at <= before:
                    loan.touched_at = trio.current_time()
                    self._counts["touched"] += 1
                    for delivery in loan.deliveries:
                        delivery.touch()

    def statistics(self) -> LoansStatistics:
        """Return what there is now and was so far."""
        return LoansStatistics(
            on_loan=len(self._loans),
            known=len(self._finished),
            taken=self._counts["taken"],
            finished=self._counts["finished"],
            requeued=dict(self._requeued),
            malformed=self._counts["malformed"],
            repeated=dict(self._repeated),
            touched=self._counts["touched"],
        )


class Destination(Protocol):
    """Where messages go: the feeds."""

    async def put(self, record: Loan) -> None:
        """Take a message; wait while there is no room for it.  Cancelled, it has not been taken."""


class Intake:
    """The way of one consumer's deliveries into the feeds.  Owned by the worker."""

    def __init__(self, consumer: Consumer, loans: Loans, destination: Destination) -> None:
        self._consumer = consumer
        self._loans = loans
        self._destination = destination
        self._in_hand: Loan | None = None

    async def run(self) -> None:
        """Forward all that comes, in order, until cancelled.

        A message that then waits for room in its feed is kept for `run_rest`.  It must not be overtaken.
        """
        while True:
            await self._forward(await self._consumer.receive())

    async def run_rest(self) -> None:
        """Forward what was on its way when the consumer was paused; ends when nothing has come for a while.

        Giving that back instead would put it at the queue's tail.
        """
        if self._in_hand is not None:
            await self._put(self._in_hand)
        while True:
            with trio.move_on_after(REST_S) as scope:
                delivery = await self._consumer.receive()
            if scope.cancelled_caught:
                return
            await self._forward(delivery)

    async def _forward(self, delivery: Delivery) -> None:
        loan = self._loans.take(delivery)
        if loan is not None:
            await self._put(loan)

    async def _put(self, loan: Loan) -> None:
        self._in_hand = loan
        await self._destination.put(loan)
        self._in_hand = None
