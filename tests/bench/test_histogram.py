from __future__ import annotations

from math import ceil

from hypothesis import given, strategies as st
from msgspec.json import decode, encode

from bench.histogram import Histogram, Recorded, highest_of, merged

values = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)


def filled(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.record(number)
    return histogram


@given(values, st.sampled_from([1, 50, 90, 99, 99.9, 100]))
def test_percentile_is_within_one_percent_above_the_true_one(numbers: list[int], percent: float) -> None:
    true = sorted(numbers)[max(0, ceil(len(numbers) * percent / 100) - 1)]
    assert true <= filled(numbers).percentile(percent) <= true * 1.008 + 1


@given(st.integers(0, (1 << 42) - 1))
def test_every_value_lies_in_its_bucket(value: int) -> None:
    (bucket,) = filled([value]).recorded().counts
    assert value <= highest_of(bucket)
    assert bucket == 0 or value > highest_of(bucket - 1)


@given(values, values)
def test_merged_histograms_are_those_of_all_values(one: list[int], other: list[int]) -> None:
    together = merged([filled(one).recorded(), filled(other).recorded()])
    assert together.recorded() == filled(one + other).recorded()
    assert together.summary() == filled(one + other).summary()


@given(values)
def test_recorded_survives_json(numbers: list[int]) -> None:
    recorded = filled(numbers).recorded()
    assert decode(encode(recorded), type=Recorded) == recorded


@given(values)
def test_curve_rises_to_the_highest_value(numbers: list[int]) -> None:
    curve = filled(numbers).curve()
    assert curve == sorted(curve)
    assert curve[-1] == (100.0, max(numbers))


def test_values_out_of_range_count_at_the_ends() -> None:
    histogram = filled([-5, 1 << 50])
    assert len(histogram) == 2
    assert histogram.percentile(50) == 0
    assert histogram.highest == 1 << 50


def test_empty_histogram_has_zeros() -> None:
    summary = Histogram().summary()
    assert (summary.p50, summary.p99, summary.p999, summary.highest) == (0, 0, 0, 0)
    assert Histogram().curve() == []


def test_summary_of_known_values() -> None:
    summary = filled(list(range(1, 101))).summary()
    assert (summary.p50, summary.p99, summary.p999, summary.highest) == (50, 99, 100, 100)
