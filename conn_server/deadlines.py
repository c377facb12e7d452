"""When to look at which descriptor's deadlines.  Pure.

A timer per connection costs memory and CPU at every frame; looking at every connection every second costs
CPU for each idle one.  Here a connection is looked at when its next deadline may be over, and it says then
when that will be next: frames that came meanwhile have moved it, and nobody had to be told.

Rules
1. Descriptors are in buckets of `RESOLUTION_S`; at most one bucket has a descriptor, the others' entries
   for it are stale and passed over.
2. An earlier time replaces a later one; a later one changes nothing, as looking too early does no harm.
3. Nothing is looked at later than `LONGEST_S` from now, so that stale entries do not pile up.
"""

from __future__ import annotations

from array import array
from math import ceil
from typing import Final

RESOLUTION_S: Final = 0.25
LONGEST_S: Final = 30.0
_NEVER: Final = 0


class Deadlines:
    """The looks that are due.  Owned by the poller.

    Args:
        now: seconds from any origin, never going back.
    """

    def __init__(self, now: float) -> None:
        self._buckets: dict[int, list[int]] = {}
        self._bucket_of = array("q")  # by descriptor
        self._done = int(now / RESOLUTION_S)

    def set(self, fd: int, at: float, now: float) -> None:
        """Look at `fd` when `at` has come, or earlier."""
        while fd >= len(self._bucket_of):
            self._bucket_of.append(_NEVER)
        current = self._bucket_of[fd]
        if current != _NEVER and current * RESOLUTION_S <= at:  # mostly: deadlines move away
            return
        bucket = max(self._done + 1, ceil(min(at, now + LONGEST_S) / RESOLUTION_S))
        if current == _NEVER or bucket < current:
            self._bucket_of[fd] = bucket
            self._buckets.setdefault(bucket, []).append(fd)

    def forget(self, fd: int) -> None:
        """Do not look at `fd` any more; it may be another socket's soon."""
        self._bucket_of[fd] = _NEVER

    def due(self, now: float) -> list[int]:
        """Return the descriptors whose time has come, each once; they have no time any more."""
        last, due = int(now / RESOLUTION_S), []
        for bucket in range(self._done + 1, last + 1):
            for fd in self._buckets.pop(bucket, ()):
                if self._bucket_of[fd] == bucket:
                    self._bucket_of[fd] = _NEVER
                    due.append(fd)
        self._done = max(self._done, last)
        return due
