from __future__ import annotations

from itertools import islice, pairwise, takewhile
from random import Random

import pytest
from hypothesis import given, strategies as st

from bench.schedule import NS, due_times, share


def test_even_load_has_even_gaps() -> None:
    assert list(islice(due_times(10), 4)) == [0, NS // 10, NS // 5, 3 * NS // 10]


def test_generators_that_share_a_load_take_turns() -> None:
    first, second = (list(islice(due_times(5, phase=phase), 3)) for phase in (0.0, 0.5))
    assert sorted(first + second) == list(islice(due_times(10), 6))


@pytest.mark.parametrize("ramp_s", [0.0, 1.0, 4.0])
def test_ramp_costs_half_of_its_time_and_then_the_rate_holds(ramp_s: float) -> None:
    due = list(takewhile(lambda ns: ns < (ramp_s + 2) * NS, due_times(100, ramp_s=ramp_s)))
    assert len([ns for ns in due if ns < ramp_s * NS]) == pytest.approx(50 * ramp_s, abs=1)
    assert len([ns for ns in due if ns >= ramp_s * NS]) == pytest.approx(200, abs=1)


def test_rate_rises_steadily_in_the_ramp() -> None:
    due = list(takewhile(lambda ns: ns < 4 * NS, due_times(100, ramp_s=4)))
    quarters = [sum(1 for ns in due if quarter <= ns / NS < quarter + 1) for quarter in range(4)]
    assert quarters == pytest.approx([12.5, 37.5, 62.5, 87.5], abs=1)


def test_independent_arrivals_have_the_rate_and_repeat_with_their_seed() -> None:
    due = list(islice(due_times(1000, gaps=Random(1)), 20_000))
    assert due[-1] / NS == pytest.approx(20, rel=0.05)
    assert due == list(islice(due_times(1000, gaps=Random(1)), 20_000))
    gaps = [b - a for a, b in pairwise(due)]
    assert min(gaps) < NS // 20_000 < 5 * NS // 1000 < max(gaps)


@given(st.floats(0.1, 1e5), st.floats(0, 10), st.floats(0, 0.99))
def test_times_never_fall(rate: float, ramp_s: float, phase: float) -> None:
    due = list(islice(due_times(rate, ramp_s=ramp_s, phase=phase), 200))
    assert due == sorted(due)


@given(st.integers(0, 100), st.integers(1, 7))
def test_shares_are_all_and_do_not_overlap(total: int, parts: int) -> None:
    numbers = [number for part in range(parts) for number in share(total, part, parts)]
    assert sorted(numbers) == list(range(total))
