"""What one generator has seen, and how several are one.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.histogram import Recorded, merged


@dataclass(frozen=True, slots=True)
class Outcome:
    """One generator's account of a load, sent to the coordinator when it is done.

    Attributes:
        counts: by name; what workloads count is said in bench/figures.py.
        problems: reason -> how often, of connections that failed, were refused or ended.
        spans: name -> durations.
        busy: the share of one core that the generator needed in the measured time.
        waited: the share of that time in which it was ready and had no core.
    """

    counts: Mapping[str, int]
    problems: Mapping[str, int]
    spans: Mapping[str, Recorded]
    busy: float
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Total:
    """What all generators have seen; `busy` and `waited` of each."""

    counts: Mapping[str, int]
    problems: Mapping[str, int]
    spans: Mapping[str, Recorded]
    busy: tuple[float, ...]
    waited: tuple[float, ...] = ()

    def count(self, name: str) -> int:
        """Return a count, 0 if nobody has counted."""
        return self.counts.get(name, 0)


# Not sums: each generator reports the same, or a share of the time.
_HIGHEST = frozenset({"opening_ns", "storm_ns"})


def total_of(outcomes: Iterable[Outcome]) -> Total:
    """Add up what several generators have seen."""
    counts: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    spans: dict[str, list[Recorded]] = {}
    busy, waited = [], []
    for outcome in outcomes:
        for name, count in outcome.counts.items():
            counts[name] = max(counts[name], count) if name in _HIGHEST else counts[name] + count
        problems.update(outcome.problems)
        for name, recorded in outcome.spans.items():
            spans.setdefault(name, []).append(recorded)
        busy.append(outcome.busy)
        waited.append(outcome.waited)
    added = {name: merged(many).recorded() for name, many in spans.items()}
    return Total(dict(counts), dict(problems), added, tuple(busy), tuple(waited))
