"""When things are due.  Pure: times are ns from the start of a load; randomness is injected.

A load is open: what is due does not wait for answers, and a latency counts from the time when its request
*should* have left.  A server that stalls for a second thus shows it in every request that was due then, not
only in the one that hit the stall.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from random import Random
from typing import Final

NS: Final = 1_000_000_000


def due_times(
    rate: float, *, ramp_s: float = 0.0, phase: float = 0.0, gaps: Random | None = None
) -> Iterator[int]:
    """Yield when each event is due; endless, rising.

    Args:
        rate: events per second, once the ramp is over.
        ramp_s: the rate rises from 0 in a straight line for so long.
        phase: 0 <= phase < 1, how far within one gap the first event is; several generators share a load
            evenly when each takes its own.
        gaps: None for even gaps; otherwise independent arrivals (a Poisson process) drawn from it.
    """
    number = phase
    if gaps is not None:
        number += gaps.expovariate(1.0)
    while True:
        yield int(_time_of(number, rate, ramp_s) * NS)
        number += 1.0 if gaps is None else gaps.expovariate(1.0)


def _time_of(number: float, rate: float, ramp_s: float) -> float:
    """Return the second in which so many events have come: the integral of the rate, turned around."""
    if number <= rate * ramp_s / 2:
        return sqrt(2 * number * ramp_s / rate)
    return number / rate + ramp_s / 2


def share(total: int, part: int, parts: int) -> range:
    """Return which of `total` numbered things belong to one of several generators: every `parts`-th."""
    return range(part, total, parts)
