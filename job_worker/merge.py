"""How a room's messages become batches (wire.md 1.1, WebSocket).  Pure.

Rules
1. Records leave in the order in which they were added; nothing is dropped here.
2. A batch is full at `max_count` records or `max_bytes` of body (lengths included) and leaves at once.  A
   record that would make it larger sends what is pending before it; one that is larger itself leaves alone.
3. The first record of a batch waits `max_wait_s` at most for others.
4. Leading edge: the first record after `max_wait_s` without any leaves at once.
5. IMPORTANT sends what is pending before it, and then leaves alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Generic, Protocol, TypeVar

from schema.batch import HEAD_BYTES, pack
from schema.message import Level, Message, Push


class Record(Protocol):
    """What is merged: anything that carries a message."""

    @property
    def message(self) -> Message:
        """What was said."""


R = TypeVar("R", bound=Record)


class RoomBatch(Generic[R]):
    """What one room has pending.  Owned by its feed, which calls `flush` when `due` has come.

    Args:
        max_count: records of a batch.
        max_bytes: of its body, unless one record alone is larger.
        max_wait_s: of the first record, and the quiet time after which one does not wait.
    """

    __slots__ = ("_last", "_max_bytes", "_max_count", "_max_wait_s", "_pending", "_size_bytes", "due")

    def __init__(self, max_count: int, max_bytes: int, max_wait_s: float) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._max_wait_s = max_wait_s
        self._pending: list[R] = []
        self._size_bytes = 0
        self._last = -inf
        self.due = inf
        """When `flush` is to be called; infinite while nothing is pending."""

    def __len__(self) -> int:
        """Return how many records are pending."""
        return len(self._pending)

    def add(self, record: R, now: float) -> Sequence[list[R]]:
        """Take `record`; return the batches, two at most, that leave now, in order."""
        message = record.message
        is_quiet = now - self._last >= self._max_wait_s
        self._last = now
        if message.level is Level.IMPORTANT:
            return (self.flush(), [record]) if self._pending else ([record],)
        size_bytes = HEAD_BYTES + len(message.data)
        leaving = []
        if self._pending and self._size_bytes + size_bytes > self._max_bytes:
            leaving.append(self.flush())
        if not self._pending:
            self.due = now + self._max_wait_s
        self._pending.append(record)
        self._size_bytes += size_bytes
        if is_quiet or len(self._pending) >= self._max_count or self._size_bytes >= self._max_bytes:
            leaving.append(self.flush())
        return leaving

    def missing(self) -> tuple[int, int]:
        """Return how many records and bytes would fill it."""
        return self._max_count - len(self._pending), self._max_bytes - self._size_bytes

    def flush(self) -> list[R]:
        """Return what is pending, in order, and start anew."""
        pending, self._pending = self._pending, []
        self._size_bytes = 0
        self.due = inf
        return pending


def push_of(records: Sequence[Record]) -> Push:
    """Return the push of a batch: one room, one level, one record at least."""
    messages = [record.message for record in records]
    first = messages[0]
    body = pack(message.data for message in messages)
    return Push(first.room, first.level, body, tuple(message.item for message in messages))
