"""What one member's socket has not taken yet: bounded in bytes, oldest first.  Pure.

Rules
1. The first frame may be half written (or, over TLS, half encrypted): it is never dropped.
2. Over the soft limit the oldest NORMAL frames go, the one just offered included.
3. What is over the hard limit then is IMPORTANT: the member is to be evicted, and comes back by itself.
4. Frames are shared with other members: a frame costs a reference here, its bytes are counted all the same.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from schema.message import Level


class Frames(NamedTuple):
    """How many frames, by level."""

    normal: int
    important: int


class Outbox:
    """The queue of one member while its socket is full.  Owned by its connection, which drops it when empty.

    Args:
        soft_bytes: beyond, NORMAL frames are dropped.
        hard_bytes: beyond, the member is to be evicted.
        now: when the socket became full.

    Attributes:
        size_bytes: that wait.
        progress_at: when something was written last.
    """

    __slots__ = (
        "_frames",
        "_hard_bytes",
        "_is_first_normal",
        "_normal",
        "_number",
        "_soft_bytes",
        "progress_at",
        "size_bytes",
    )

    def __init__(self, soft_bytes: int, hard_bytes: int, now: float) -> None:
        self._soft_bytes = soft_bytes
        self._hard_bytes = hard_bytes
        self._number = 0
        self._frames: OrderedDict[int, bytes | memoryview] = OrderedDict()
        self._normal: deque[int] = deque()  # numbers of NORMAL frames but the first one's, oldest first
        self._is_first_normal = False
        self.size_bytes = 0
        self.progress_at = now

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_overfull(self) -> bool:
        """Whether more waits than the hard limit allows."""
        return self.size_bytes > self._hard_bytes

    @property
    def frames(self) -> Frames:
        """How many wait; one that is half written counts."""
        normal = len(self._normal) + self._is_first_normal
        return Frames(normal, len(self._frames) - normal)

    def offer(self, frame: bytes | memoryview, level: Level) -> int:
        """Queue `frame`; return how many NORMAL frames had to be dropped for the soft limit."""
        self._number += 1
        if not self._frames:
            self._is_first_normal = level is Level.NORMAL
        elif level is Level.NORMAL:
            self._normal.append(self._number)
        self._frames[self._number] = frame
        self.size_bytes += len(frame)
        dropped = 0
        while self.size_bytes > self._soft_bytes and self._normal:
            self.size_bytes -= len(self._frames.pop(self._normal.popleft()))
            dropped += 1
        return dropped

    def first(self) -> bytes | memoryview | None:
        """Return what to write next, None when there is nothing."""
        return next(iter(self._frames.values()), None)

    def sent(self, size: int, now: float) -> None:
        """Take away `size` bytes of the first frame."""
        number, frame = next(iter(self._frames.items()))
        self.size_bytes -= size
        self.progress_at = now
        if size < len(frame):
            self._frames[number] = memoryview(frame)[size:]
            return
        del self._frames[number]
        # The frame that is first now may be begun at any time.
        self._is_first_normal = bool(self._normal) and self._normal[0] == next(iter(self._frames), None)
        if self._is_first_normal:
            self._normal.popleft()

    def clear(self) -> Frames:
        """Drop all but the first frame; return what is dropped."""
        dropped = Frames(len(self._normal), max(0, len(self._frames) - 1) - len(self._normal))
        while len(self._frames) > 1:
            _, frame = self._frames.popitem()
            self.size_bytes -= len(frame)
        self._normal.clear()
        return dropped
