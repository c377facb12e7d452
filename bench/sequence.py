"""What a message of a load carries, and whether each arrived once and in order.  Pure.

    rcb | run, 8 hex | sender, 8 hex | number, 8 hex | due, 16 hex | ....   dots up to the size asked for

It is text, so that it also goes through `POST /msg`, which wraps it in a JSON string.

A receiver judges by two numbers.  `number` counts one sender's messages from 1: a gap is a loss until the
number comes late, which is a fault of order; a number that was not missing is a duplicate.  `place` counts
the messages of a room in the order in which the first of all receivers saw them: another receiver whose
places do not rise has seen another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HEAD_BYTES: Final = 43
MAX_MISSING: Final = 100_000
_MARK: Final = b"rcb"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which message this is: of which run and sender, its number there from 1, and when it was due (ns)."""

    run: int
    sender: int
    number: int
    due_ns: int

    def encode(self, size: int) -> bytes:
        """Return the message, `size` bytes long (HEAD_BYTES at least)."""
        head = b"rcb%08x%08x%08x%016x" % (self.run, self.sender, self.number, self.due_ns)
        return head.ljust(size, b".")


def read_stamp(data: bytes) -> Stamp | None:
    """Return the stamp of a message, or None if no load made it.  A JSON string is looked into."""
    start = 1 if data[:1] == b'"' else 0
    if data[start : start + 3] != _MARK:
        return None
    digits = data[start + 3 : start + HEAD_BYTES]
    try:
        return Stamp(
            int(digits[:8], 16), int(digits[8:16], 16), int(digits[16:24], 16), int(digits[24:40], 16)
        )
    except ValueError:
        return None


@dataclass(slots=True)
class Faults:
    """What was wrong, over all receivers that share it.

    Attributes:
        late: came after a later number of the same sender.
        duplicates: came again.
        disordered: came in another order than at the first receiver of the room.
    """

    late: int = 0
    duplicates: int = 0
    disordered: int = 0


class Tracker:
    """One receiver's view of the senders of its room.

    Numbers that are missing are remembered up to MAX_MISSING; what comes late beyond that is a duplicate.
    """

    __slots__ = ("_faults", "_last", "_missing", "_place", "unique")

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._last: dict[int, int] = {}
        self._missing: set[tuple[int, int]] | None = None
        self._place = -1
        self.unique = 0

    def saw(self, stamp: Stamp, place: int) -> bool:
        """Note one message; return whether it came for the first time."""
        expected = self._last.get(stamp.sender, 0) + 1
        if stamp.number == expected:
            self._last[stamp.sender] = expected
        elif not self._saw_unexpected(stamp, expected):
            return False
        if place <= self._place:
            self._faults.disordered += 1
        self._place = place
        self.unique += 1
        return True

    def _saw_unexpected(self, stamp: Stamp, expected: int) -> bool:
        missing = self._missing
        if stamp.number > expected:
            self._last[stamp.sender] = stamp.number
            if missing is None:
                missing = self._missing = set()
            room = MAX_MISSING - len(missing)
            gap = range(expected, min(stamp.number, expected + room))
            missing.update((stamp.sender, number) for number in gap)
            return True
        if missing and (stamp.sender, stamp.number) in missing:
            missing.discard((stamp.sender, stamp.number))
            self._faults.late += 1
            return True
        self._faults.duplicates += 1
        return False
