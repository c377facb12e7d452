"""How often which duration was seen: 7 significant bits (under 0.8 % off), 1 ns to over an hour.  Pure.

Buckets, as an HDR histogram has them: values below 256 have one each; from there on every power of two has
128 of the same width.

    value   0 … 255   256 … 511   512 … 1023   …
    width   1         2           4            …
    bucket  0 … 255   256 … 383   384 … 511    …
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_BITS: Final = 7
_HALF: Final = 1 << _BITS
_FIRST: Final = 2 * _HALF  # below it, each value has its own bucket
_MAX: Final = (1 << 42) - 1  # 73 minutes in ns
_BUCKETS: Final = ((_MAX.bit_length() - _BITS - 1) << _BITS) + _FIRST


@dataclass(frozen=True, slots=True)
class Recorded:
    """A histogram on its way between processes: bucket -> count, and what buckets cannot say exactly."""

    counts: dict[int, int]
    highest: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What people ask of a histogram, in ns; all 0 when nothing was recorded."""

    p50: int
    p99: int
    p999: int
    highest: int


class Histogram:
    """Counts values in ns.  Owned by whoever records; negative values count as 0, over an hour as an hour."""

    __slots__ = ("counts", "highest")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.highest = 0

    def record(self, value: int) -> None:
        """Count one value."""
        self.highest = max(self.highest, value)
        if value < 0:
            value = 0
        elif value > _MAX:
            value = _MAX
        shift = value.bit_length() - _BITS - 1
        self.counts[value if shift <= 0 else (shift << _BITS) + (value >> shift)] += 1

    def __len__(self) -> int:
        return sum(self.counts)

    def percentile(self, percent: float) -> int:
        """Return the value that `percent` of all values do not exceed; 0 when there are none."""
        wanted = len(self) * percent / 100
        for upper, seen in self._cumulated():
            if seen >= wanted:
                return min(upper, self.highest)
        return 0

    def curve(self) -> list[tuple[float, int]]:
        """Return (percent, value) for every bucket with a count, rising."""
        count = len(self)
        return [(100 * seen / count, min(upper, self.highest)) for upper, seen in self._cumulated()]

    def summary(self) -> Summary:
        """Return the usual figures."""
        if not len(self):
            return Summary(0, 0, 0, 0)
        p50, p99, p999 = (self.percentile(percent) for percent in (50, 99, 99.9))
        return Summary(p50, p99, p999, self.highest)

    def recorded(self) -> Recorded:
        """Return all that was recorded, to be sent or stored."""
        return Recorded({i: n for i, n in enumerate(self.counts) if n}, self.highest)

    def add(self, recorded: Recorded) -> None:
        """Count what another histogram has recorded as well."""
        for bucket, count in recorded.counts.items():
            self.counts[bucket] += count
        self.highest = max(self.highest, recorded.highest)

    def _cumulated(self) -> Iterator[tuple[int, int]]:
        """Yield (highest value of a bucket, count up to and with it) for buckets that have a count."""
        seen = 0
        for bucket, count in enumerate(self.counts):
            if count:
                seen += count
                yield highest_of(bucket), seen


def highest_of(bucket: int) -> int:
    """Return the highest value that counts into `bucket`."""
    if bucket < _FIRST:
        return bucket
    shift = (bucket >> _BITS) - 1
    return (((bucket & (_HALF - 1)) + _HALF + 1) << shift) - 1


def merged(many: Iterable[Recorded]) -> Histogram:
    """Return one histogram of all that several have recorded."""
    histogram = Histogram()
    for recorded in many:
        histogram.add(recorded)
    return histogram
