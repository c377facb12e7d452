from __future__ import annotations

from bench.histogram import merged
from bench.outcome import Outcome, total_of
from tests.bench.results import recorded


def test_outcomes_of_several_generators_are_added_up() -> None:
    one = Outcome(
        {"units": 2, "storm_ns": 5, "opening_ns": 8}, {"refused": 1}, {"open": recorded(1, 2)}, 0.25
    )
    other = Outcome(
        {"units": 3, "storm_ns": 9, "opening_ns": 7},
        {"refused": 1, "ended": 1},
        {"open": recorded(3)},
        0.5,
        0.2,
    )
    total = total_of([one, other])
    assert total.counts == {"units": 5, "storm_ns": 9, "opening_ns": 8}  # over when it is over for the last
    assert total.problems == {"refused": 2, "ended": 1}
    assert len(merged([total.spans["open"]])) == 3
    assert total.busy == (0.25, 0.5)
    assert total.waited == (0.0, 0.2)
    assert total.count("nothing") == 0
