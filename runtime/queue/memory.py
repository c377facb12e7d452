"""The queue inside one process, with NSQ's semantics: for the all-in-one, and for tests.

    publish --> memory_store.py --> receive --> the caller --> finish/requeue --> memory_store.py
                topics, channels    `------ memory_consumer.py ------'            loans

1. Nothing outlives the process: that, and that a consumer is asked and not pushed to, is all the difference.
2. There is no task: loans that have timed out and delays that are over are looked for whenever somebody
   publishes, waits for a delivery or asks for statistics.
3. On demand it shows NSQ's faults, which `Faults` chooses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from runtime.queue.memory_consumer import (
    NO_FAULTS,
    Faults,
    MemoryConsumer,
    MemoryConsumerStatistics,
    MemoryDelivery,
    take_turn,
)
from runtime.queue.memory_store import Channel, Store
from schema.access import Unavailable
from schema.message import MAX_BODY_BYTES
from schema.names import queue_name_problem

__all__ = [
    "Faults",
    "MemoryConsumer",
    "MemoryConsumerStatistics",
    "MemoryDelivery",
    "MemoryProducer",
    "MemoryQueue",
    "MemoryStatistics",
]


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """What a queue holds and has done.

    Attributes:
        messages: held now, in all channels.
        size_bytes: of their bodies.
        waiting: of the messages, to be delivered.
        on_loan: of the messages, `deferred` wait for the delay of their requeue.
        stored: messages that were published.
        refused: publishes that were not stored, by reason: `full`, `closing`.
        timed_out: loans that ended without an answer.
        stranded: deliveries that went to nobody because of `Faults`.
        lost: messages that `lose_in_flight` took away.
    """

    messages: int
    size_bytes: int
    waiting: int
    on_loan: int
    deferred: int
    stored: int
    refused: dict[str, int]
    timed_out: int
    stranded: int
    lost: int


class MemoryProducer:
    """A `runtime.queue.Producer`.  `MemoryQueue.open_producer` owns it."""

    def __init__(self, queue: MemoryQueue) -> None:
        self._queue = queue
        self._calls = 0
        self._is_closed = False

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        """Store all of `bodies` in order, or none.  Cancelled, it has stored none.

        Overflow: refused at once, as nothing else would free a place but a consumer.

        Raises:
            schema.access.Unavailable: the queue is full, or the producer's context has been left.
            ValueError: the topic is no name, or a body is empty or too long, or all together are.
        """
        self._calls += 1
        await take_turn(self._calls)
        self._queue.publish_nowait(topic, bodies, is_closing=self._is_closed)

    def close_nowait(self) -> None:
        """Refuse whatever comes from now on."""
        self._is_closed = True


class MemoryQueue:
    """A `runtime.queue.Queue` that is its own store.  Whoever makes it owns it, and it dies with that."""

    def __init__(
        self,
        *,
        max_messages: int = 100_000,
        max_bytes: int = 64 << 20,
        max_message_bytes: int = MAX_BODY_BYTES,
        msg_timeout_s: float = 10.0,
        drain_deadline_s: float = 4.0,
        faults: Faults = NO_FAULTS,
    ) -> None:
        """Make an empty queue.

        Args:
            max_messages: in all channels together, those on loan included.
            max_bytes: of their bodies.
            max_message_bytes: of one body.
            msg_timeout_s: how long a delivery may stay unanswered.
            drain_deadline_s: how long a consumer that is closed waits for answers.
            faults: which deliveries go wrong.
        """
        self._store = Store(max_messages=max_messages, max_bytes=max_bytes, msg_timeout_s=msg_timeout_s)
        self._max_message_bytes = max_message_bytes
        self._drain_deadline_s = drain_deadline_s
        self._faults = faults
        self._waiting: dict[Channel, trio.lowlevel.ParkingLot] = {}
        self._consumers: set[MemoryConsumer] = set()
        self._stored = self._lost = self._stranded = 0
        self._refused: Counter[str] = Counter()

    def open_producer(self) -> AbstractAsyncContextManager[MemoryProducer]:
        """Open a producer; there is nothing to wait for when its context is left."""
        return self._open_producer()

    def open_consumer(
        self, topic: str, channel: str, *, max_in_flight: int
    ) -> AbstractAsyncContextManager[MemoryConsumer]:
        """Open a consumer that starts paused; the channel stays when it is closed.

        Leaving the context waits up to `drain_deadline_s` for answers to what is on loan, and gives back the
        rest at the tail.  Cancelled, or with an error in its body, it gives back at once.

        Raises:
            ValueError: topic or channel is no name, or `max_in_flight` is not positive.
        """
        return self._open_consumer(topic, channel, max_in_flight)

    def lose_in_flight(self) -> int:
        """Lose what is on loan or deferred, as when nsqd is killed; return how much that was.

        Answers to those loans come too late.  What waits in the queue stays, as on nsqd's disk.
        """
        lost = sum(channel.lose_in_flight() for channel in self._store.channels())
        self._lost += lost
        for waiting in self._waiting.values():
            waiting.unpark_all()
        return lost

    def statistics(self) -> MemoryStatistics:
        """Return what there is now and was so far."""
        channels = list(self._store.channels())
        for channel in channels:
            channel.settle(trio.current_time())
        return MemoryStatistics(
            messages=self._store.budget.messages,
            size_bytes=self._store.budget.size_bytes,
            waiting=sum(len(channel.queue) for channel in channels),
            on_loan=sum(channel.on_loan for channel in channels),
            deferred=sum(channel.deferred for channel in channels),
            stored=self._stored,
            refused=dict(self._refused),
            timed_out=sum(channel.timed_out for channel in channels),
            stranded=self._stranded + sum(consumer.stranded for consumer in self._consumers),
            lost=self._lost,
        )

    def publish_nowait(self, topic: str, bodies: Sequence[bytes], *, is_closing: bool = False) -> None:
        """Do what `MemoryProducer.publish` does, without letting other tasks run."""
        self._check(topic, bodies)
        if is_closing:
            raise self._unavailable("closing", "the producer is closing")
        if not bodies:
            return
        channels = self._store.publish(topic, bodies, trio.current_time())
        if channels is None:
            budget = self._store.budget
            held = f"{budget.messages} messages with {budget.size_bytes} bytes"
            raise self._unavailable("full", f"{held} are waiting already")
        self._stored += len(bodies)
        for channel in channels:
            if waiting := self._waiting.get(channel):
                waiting.unpark_all()

    def _check(self, topic: str, bodies: Sequence[bytes]) -> None:
        _check_name(topic)
        for body in bodies:
            if not 0 < len(body) <= self._max_message_bytes:
                raise ValueError(f"a message of {len(body)} bytes, not 1 to {self._max_message_bytes}")
        size_bytes, budget = sum(map(len, bodies)), self._store.budget
        if len(bodies) > budget.max_messages or size_bytes > budget.max_bytes:
            raise ValueError(
                f"{len(bodies)} messages with {size_bytes} bytes at once, more than there may be"
            )

    def _unavailable(self, reason: str, text: str) -> Unavailable:
        self._refused[reason] += 1
        return Unavailable(f"queue: {text}")

    @asynccontextmanager
    async def _open_producer(self) -> AsyncIterator[MemoryProducer]:
        producer = MemoryProducer(self)
        try:
            yield producer
        finally:
            producer.close_nowait()

    @asynccontextmanager
    async def _open_consumer(
        self, topic: str, name: str, max_in_flight: int
    ) -> AsyncIterator[MemoryConsumer]:
        _check_name(topic)
        _check_name(name)
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}")
        channel = self._store.channel(topic, name)
        waiting = self._waiting.setdefault(channel, trio.lowlevel.ParkingLot())
        consumer = MemoryConsumer(channel, waiting, max_in_flight, self._faults)
        self._consumers.add(consumer)
        try:
            yield consumer
            consumer.stop_nowait()
            with trio.move_on_after(self._drain_deadline_s):
                await consumer.wait_answered()
        finally:
            consumer.close_nowait()
            self._consumers.remove(consumer)
            self._stranded += consumer.stranded


def _check_name(name: str) -> None:
    if problem := queue_name_problem(name):
        raise ValueError(problem)
