"""The hand-over to the queue: encode, choose the topic, store, and try again for a while.

    messages --> bodies by topic --> batches --> Producer.publish --> returns: the queue has them
                                                  |  Unavailable: a pause, and again, until the deadline
                                                  |  ValueError: in halves, until the one is found that
                                                  '              the queue will never take

Rules
1. Messages of one topic reach the producer in the order in which they were given: the next batch is tried
   when the one before it is stored or given up, never beside it.  Topics do not wait for each other.
2. A second try may store a second copy, since the first one's answer may just have been lost.  Copies of a
   message with an identity (origin, origin_seq) are told apart further on; one without, a Go conn
   server's, is therefore tried once, and so is the batch that it is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import random
from typing import Final, TypeAlias

import trio

from runtime.queue import Producer
from schema.access import Code, Refused, Unavailable
from schema.message import Message
from schema.names import TOPIC, partition, topic_of

Verdict: TypeAlias = Refused | Unavailable | None
"""Why a message is not stored; None: the queue has it."""

_GROWTH: Final = 2.0


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """The settings of the hand-over; durations in seconds.

    Attributes:
        topic: the queue topic, or the stem of one per partition.
        partitions: how many; the same at every logic server and job worker.
        deadline_s: after which a message that is not stored is `Unavailable`, tries and pauses included.
        attempts: tries of one batch at most.
        pause_s: the first pause between two tries, drawn from half of it up to all of it; each
            further one is twice as long.
        max_batch_bytes: of bodies that are stored together.
        max_waiting_bytes: of bodies under way; what would go beyond is `Unavailable` at once.
    """

    topic: str = TOPIC
    partitions: int = 1
    deadline_s: float = 4.0
    attempts: int = 4
    pause_s: float = 0.1
    max_batch_bytes: int = 1024 * 1024
    max_waiting_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        least = min(self.partitions, self.attempts, self.max_batch_bytes, self.max_waiting_bytes)
        if least < 1 or self.deadline_s <= 0:
            raise ValueError(f"not options of publishing: {self}")


@dataclass(frozen=True, slots=True)
class PublishStatistics:
    """What is under way now; batches, and what was stored, tried again and not stored (by reason), since
    the start."""

    waiting: int
    waiting_bytes: int
    batches: int
    stored: int
    retried: int
    not_stored: Mapping[str, int]


@dataclass(slots=True)
class _Parcel:
    """One message under way.

    Attributes:
        place: among the messages that were given together.
        repeatable: a second copy does no harm.
    """

    place: int
    body: bytes
    repeatable: bool


class Publisher:
    """One logic server's way into the queue.  Owned by its app; dies before the producer.

    Args:
        producer: of the queue; its owner closes it.
        options: topic, deadlines and bounds.
        jitter: 0 <= number < 1, for the pauses.
    """

    def __init__(
        self, producer: Producer, options: PublishOptions, *, jitter: Callable[[], float] = random
    ) -> None:
        self._producer = producer
        self._options = options
        self._jitter = jitter
        self._waiting = 0
        self._waiting_bytes = 0
        self._batches = 0
        self._stored = 0
        self._retried = 0
        self._not_stored: Counter[str] = Counter()

    async def publish(self, message: Message) -> None:
        """Store `message`; return once the queue has it.

        Waits up to `deadline_s`.  When it is cancelled the message may or may not be stored.

        Raises:
            Unavailable: not stored, or not known to be; also when too much is under way already.
            Refused: the queue would never take it.
        """
        (failure,) = await self.publish_many([message])
        if failure is not None:
            raise failure

    async def publish_many(self, messages: Sequence[Message], *, deadline: float = inf) -> list[Verdict]:
        """Store `messages`; return for each why it is not stored, or None.

        Waits until `deadline` (Trio's time), `deadline_s` at most.  When it is cancelled any of them may
        be stored.
        """
        verdicts: list[Verdict] = [None] * len(messages)
        deadline = min(deadline, trio.current_time() + self._options.deadline_s)
        topics, size_bytes = self._admit(messages, verdicts)
        try:
            if len(topics) == 1:  # a nursery for one task costs as much as the rest
                for topic, parcels in topics.items():
                    await self._store_topic(topic, parcels, verdicts, deadline)
            else:
                async with trio.open_nursery() as nursery:
                    for topic, parcels in topics.items():
                        nursery.start_soon(self._store_topic, topic, parcels, verdicts, deadline)
        finally:
            self._waiting -= sum(map(len, topics.values()))
            self._waiting_bytes -= size_bytes
        return verdicts

    def statistics(self) -> PublishStatistics:
        """Return what there is now and was so far."""
        return PublishStatistics(
            self._waiting,
            self._waiting_bytes,
            self._batches,
            self._stored,
            self._retried,
            dict(self._not_stored),
        )

    def _admit(
        self, messages: Sequence[Message], verdicts: list[Verdict]
    ) -> tuple[dict[str, list[_Parcel]], int]:
        """Return what fits by topic, and how many bytes it has."""
        options = self._options
        topics: dict[str, list[_Parcel]] = {}
        before_bytes = self._waiting_bytes
        for place, message in enumerate(messages):
            body = message.encode()
            if self._waiting_bytes + len(body) > options.max_waiting_bytes:
                self._not_stored["busy"] += 1
                verdicts[place] = Unavailable("too much is waiting for the queue, try again later")
                continue
            self._waiting += 1
            self._waiting_bytes += len(body)
            topic = topic_of(options.topic, partition(message.room, options.partitions), options.partitions)
            topics.setdefault(topic, []).append(_Parcel(place, body, bool(message.origin)))
        return topics, self._waiting_bytes - before_bytes

    async def _store_topic(
        self, topic: str, parcels: list[_Parcel], verdicts: list[Verdict], deadline: float
    ) -> None:
        for batch in _cut(parcels, self._options.max_batch_bytes):
            await self._store(topic, batch, verdicts, deadline)

    async def _store(
        self, topic: str, batch: list[_Parcel], verdicts: list[Verdict], deadline: float
    ) -> None:
        """Store all of `batch`; what the queue does not take is looked for in halves, in order."""
        problem = await self._try(topic, batch, deadline)
        if isinstance(problem, ValueError) and len(batch) > 1:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                await self._store(topic, half, verdicts, deadline)
        elif problem is None:
            self._stored += len(batch)
        else:
            for parcel in batch:
                verdicts[parcel.place] = self._verdict(problem)

    async def _try(
        self, topic: str, batch: list[_Parcel], deadline: float
    ) -> Unavailable | ValueError | TimeoutError | None:
        """Try to store `batch` until it is stored, or return why it is not."""
        attempts = self._options.attempts if all(parcel.repeatable for parcel in batch) else 1
        problem: Unavailable | TimeoutError = TimeoutError("no answer from the queue in time")
        with trio.move_on_at(deadline):
            for number, pause_s in enumerate(self._pauses(attempts)):
                if number:
                    await trio.sleep(pause_s)
                    self._retried += 1
                if trio.current_time() >= deadline:
                    break
                self._batches += 1
                try:
                    await self._producer.publish(topic, [parcel.body for parcel in batch])
                except Unavailable as exc:
                    problem = exc
                except ValueError as exc:
                    return exc
                else:
                    return None
        return problem

    def _verdict(self, problem: Unavailable | ValueError | TimeoutError) -> Verdict:
        """Count one message that is not stored, and return what its sender is told."""
        if isinstance(problem, ValueError):
            self._not_stored["refused"] += 1
            return Refused(Code.TOO_LARGE, f"the queue does not take it: {problem}")
        if isinstance(problem, Unavailable):
            self._not_stored["unavailable"] += 1
            return Unavailable(problem.text)
        self._not_stored["deadline"] += 1
        return Unavailable(str(problem))

    def _pauses(self, attempts: int) -> Iterator[float]:
        """Yield the pause before each try; the first has none."""
        yield 0.0
        longest_s = self._options.pause_s
        for _ in range(attempts - 1):
            yield longest_s * (1 + self._jitter()) / 2
            longest_s *= _GROWTH


def _cut(parcels: list[_Parcel], max_bytes: int) -> Iterator[list[_Parcel]]:
    """Yield `parcels` in batches of at most `max_bytes`, or of one."""
    batch: list[_Parcel] = []
    size_bytes = 0
    for parcel in parcels:
        size_bytes += len(parcel.body)
        if batch and size_bytes > max_bytes:
            yield batch
            batch, size_bytes = [], len(parcel.body)
        batch.append(parcel)
    if batch:
        yield batch
