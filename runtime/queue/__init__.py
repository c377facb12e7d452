"""The queue between logic servers and job workers: what both ends may count on.

The guarantees are NSQ's, whatever stands behind them (memory.py, and NSQ itself):

- at least once: a delivery that is neither finished nor requeued within its time limit comes again;
- order within a topic is that of publishing as long as nothing is requeued or times out; what
  comes again comes at the tail;
- bounded: a full queue refuses (`Unavailable`), a consumer never holds more than it asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Delivery(Protocol):
    """One message on loan.  Exactly one of `finish` and `requeue` ends the loan; a second call,
    or one after the time limit, changes nothing and is counted.  All three are synchronous: the
    answer is handed to whoever owns the socket."""

    @property
    def body(self) -> bytes:
        """The message as it was published."""

    @property
    def attempts(self) -> int:
        """How often it has been delivered, from 1."""

    @property
    def touched_at(self) -> float:
        """When its time limit was started last, Trio's time: when it came, however late it is received."""

    def finish(self) -> None:
        """Done: never deliver it again."""

    def requeue(self, delay_s: float = 0.0) -> None:
        """Deliver it again, at the tail, after `delay_s`."""

    def touch(self) -> None:
        """Start the time limit anew."""


class Producer(Protocol):
    """One process's way into the queue.  Calls of one task are stored in call order."""

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        """Store all of `bodies` in order, or none.

        Returns once the queue has them.  When it is cancelled they may or may not be stored.

        Raises:
            schema.access.Unavailable: not stored (queue full, unreachable, or no answer in time).
            ValueError: a body or the topic that the queue would never take.
        """


class Consumer(Protocol):
    """One process's way out of the queue, for one topic and channel."""

    async def receive(self) -> Delivery:
        """Wait for the next delivery.  Cancellation loses nothing.

        What has come and waits to be received does not time out meanwhile.
        """

    def pause(self) -> None:
        """Ask for nothing more; what is on loan stays on loan."""

    def resume(self) -> None:
        """Ask for deliveries again."""


class Queue(Protocol):
    """What a composition root opens producers and consumers with."""

    def open_producer(self) -> AbstractAsyncContextManager[Producer]:
        """Open a producer; leaving the context waits (bounded) for what is being stored."""

    def open_consumer(
        self, topic: str, channel: str, *, max_in_flight: int
    ) -> AbstractAsyncContextManager[Consumer]:
        """Open a consumer that starts paused; leaving the context gives back what is on loan."""
