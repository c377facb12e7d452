"""What is to be published and not yet under way: one line per topic, merged into batches.  Pure.

1. Calls of one topic leave in the order of their numbers, also those that come back.
2. A batch is of one topic, holds at most so many bytes, and never part of a call.
3. A call that must be alone (nsqd refused the batch that it was in) gets a batch to itself.
4. A call that was given up is forgotten before it is sent, not after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from runtime.queue.nsq.codec import MPUB_BYTES, mpub_bytes

# nsqd answers a batch as a whole: one that is too long makes all its calls wait.
MAX_BATCH_CALLS: Final = 1024


class Call:
    """One publish on its way.

    Attributes:
        number: of the call, ascending.
        size_bytes: of its share of an MPUB.
        alone: must not share a batch.
        given_up: nobody waits for it any more.
    """

    __slots__ = ("alone", "bodies", "given_up", "number", "settle", "size_bytes", "topic")

    def __init__(
        self, number: int, topic: str, bodies: Sequence[bytes], settle: Callable[[Exception | None], None]
    ) -> None:
        """Make a call; `settle` is to be called once, with None when it is stored or why it is not."""
        self.number = number
        self.topic = topic
        self.bodies = bodies
        self.settle = settle
        self.size_bytes = mpub_bytes(bodies)
        self.alone = False
        self.given_up = False


class Backlog:
    """The lines of one producer.  It bounds nothing: the producer admits calls."""

    __slots__ = ("_lines", "_max_batch_bytes")

    def __init__(self, max_batch_bytes: int) -> None:
        self._lines: dict[str, deque[Call]] = {}
        self._max_batch_bytes = max_batch_bytes - MPUB_BYTES

    def add(self, call: Call) -> None:
        """Put a new call at the end of its line."""
        self._lines.setdefault(call.topic, deque()).append(call)

    def put_back(self, calls: Sequence[Call]) -> None:
        """Put calls of one batch, certainly not stored, where they were."""
        line = self._lines.setdefault(calls[0].topic, deque())
        ordered = sorted((*calls, *line), key=lambda call: call.number)
        line.clear()
        line.extend(ordered)

    def take(self, is_ours: Callable[[str], bool]) -> list[Call]:
        """Return the next batch among the topics that `is_ours` accepts, empty if there is none.

        The topic goes behind the others, so that a busy one starves nobody.
        """
        for topic in [topic for topic in self._lines if is_ours(topic)]:
            line = self._lines.pop(topic)
            batch = self._cut(line)
            if line:
                self._lines[topic] = line
            if batch:
                return batch
        return []

    def take_all(self) -> list[Call]:
        """Return all that wait, in the order of their topics, and forget them."""
        calls = [call for line in self._lines.values() for call in line if not call.given_up]
        self._lines.clear()
        return calls

    def _cut(self, line: deque[Call]) -> list[Call]:
        batch: list[Call] = []
        size_bytes = 0
        while line and len(batch) < MAX_BATCH_CALLS:
            call = line[0]
            if call.given_up:
                line.popleft()
                continue
            size_bytes += call.size_bytes
            if batch and (size_bytes > self._max_batch_bytes or call.alone):
                break
            batch.append(line.popleft())
            if call.alone:
                break
        return batch
