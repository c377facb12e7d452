"""One message on loan from nsqd, and the loans of one consumer."""

from __future__ import annotations

from typing import Protocol

from runtime.queue.nsq import codec
from runtime.queue.nsq.codec import Message
from runtime.queue.nsq.connection import Connection


class Lender(Protocol):
    """Who is told of the answers: the consumer."""

    def now(self) -> float:
        """Return the time on the clock of deadlines, in seconds."""

    def answered(self, delivery: NsqDelivery, answer: str) -> None:
        """Note that a loan has ended: `finished` or `requeued`."""

    def count(self, what: str) -> None:
        """Count what changed nothing, `late` or `repeated`, and each `touched`."""


class NsqDelivery:
    """A `runtime.queue.Delivery`.  The loan ends with `finish` or `requeue`, with its time limit, or
    with its connection: nsqd does not take an answer on another one.  In the last two cases it comes
    again, no sooner than its time limit.

    Attributes:
        body: the message as it was published.
        attempts: how often it has been delivered, from 1.
        timestamp_ns: when nsqd first had it, Unix time.
        address: of the nsqd that it came from.
        touched_at: when its time limit was started last, on the clock of deadlines.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_id",
        "_lender",
        "attempts",
        "body",
        "timestamp_ns",
        "touched_at",
    )

    def __init__(self, message: Message, connection: Connection, lender: Lender) -> None:
        self.body = message.body
        self.attempts = message.attempts
        self.timestamp_ns = message.timestamp_ns
        self._id = message.id
        self._connection = connection
        self._lender = lender
        self.touched_at = lender.now()
        self._ended = False

    @property
    def address(self) -> str:
        return self._connection.address

    @property
    def connection(self) -> Connection:
        """Where it came from, and where alone it can be answered."""
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether an answer would still count."""
        return not self._ended and self._connection.lost is None and self._age_s() < self._timeout_s

    @property
    def _timeout_s(self) -> float:
        return self._connection.negotiated.msg_timeout_s

    def _age_s(self) -> float:
        return self._lender.now() - self.touched_at

    def keep(self) -> None:
        """Touch it if a third of its time is over: for who has not given it out yet."""
        if self._age_s() >= self._timeout_s / 3 and self.is_open:
            self.touch()

    def finish(self) -> None:
        """Done: never deliver it again.  Late or repeated, it changes nothing and is counted."""
        self._end(codec.fin(self._id), "finished")

    def requeue(self, delay_s: float = 0.0) -> None:
        """Deliver it again, at the tail, after `delay_s`; nsqd takes up to an hour.

        Late or repeated, it changes nothing and is counted.
        """
        self._end(codec.req(self._id, max(0, round(delay_s * 1000))), "requeued")

    def touch(self) -> None:
        """Start the time limit anew, up to nsqd's --max-msg-timeout after the delivery."""
        if not self._may_answer():
            return
        self._connection.write_nowait(codec.touch(self._id))
        self.touched_at = self._lender.now()
        self._lender.count("touched")

    def _end(self, command: bytes, answer: str) -> None:
        if not self._may_answer():
            return
        self._ended = True
        self._connection.write_nowait(command)
        self._lender.answered(self, answer)

    def _may_answer(self) -> bool:
        if self.is_open:
            return True
        self._lender.count("repeated" if self._ended else "late")
        return False
