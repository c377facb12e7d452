from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from conn_server.admission import Admission, AdmissionStatistics, Full, Pace


def test_place_counts_from_enter_to_leave() -> None:
    admission = Admission(2, 0)
    first, _ = admission.enter("a"), admission.enter("b")
    with pytest.raises(Full):
        admission.enter("c")
    admission.leave(first)
    admission.enter("c")
    assert admission.statistics() == AdmissionStatistics(2, 0, 3, {"connections": 1})


def test_full_node_answers_503_and_a_full_address_429() -> None:
    admission = Admission(2, 1)
    admission.enter("a")
    with pytest.raises(Full) as caught:
        admission.enter("a")
    assert (caught.value.status, caught.value.reason) == (429, "address")
    admission.enter("b")
    with pytest.raises(Full) as caught:
        admission.enter("c")
    assert (caught.value.status, caught.value.reason) == (503, "connections")
    assert admission.statistics().refused == {"address": 1, "connections": 1}


def test_addresses_are_kept_only_where_they_count() -> None:
    admission = Admission(10, 0)
    for _ in range(5):
        admission.enter("a")
    assert admission.statistics().addresses == 0


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"))), st.integers(1, 6), st.integers(0, 3))
def test_counts_are_those_of_the_places_held(
    steps: list[tuple[bool, str]], most: int, per_address: int
) -> None:
    admission = Admission(most, per_address)
    held: list[tuple[str, str]] = []
    for is_entering, address in steps:
        counts = Counter(who for who, _ in held)
        if is_entering:
            has_place = len(held) < most and (not per_address or counts[address] < per_address)
            try:
                held.append((address, admission.enter(address)))
                assert has_place
            except Full:
                assert not has_place
        elif held:
            admission.leave(held.pop()[1])
    statistics = admission.statistics()
    assert statistics.connections == len(held)
    assert statistics.addresses == (len({who for who, _ in held}) if per_address else 0)


def test_no_pace_waits_for_nobody() -> None:
    pace = Pace(0.0, 1)
    for _ in range(1000):
        assert pace.wait_s(0.0) == 0.0
        pace.admit(0.0)


def test_burst_comes_at_once_and_the_rest_at_the_pace() -> None:
    pace = Pace(10.0, 3)
    waits = []
    for _ in range(5):
        waits.append(pace.wait_s(100.0))
        pace.admit(100.0)
    assert waits == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])


def test_asking_takes_no_place() -> None:
    """The accept loop asks before it looks whether anybody is there: each look cost a place of the burst."""
    pace = Pace(10.0, 3)
    for _ in range(100):
        assert pace.wait_s(100.0) == 0.0


@given(st.lists(st.floats(0, 5), max_size=100), st.sampled_from([1.0, 10.0, 1000.0]), st.integers(1, 20))
def test_never_more_than_burst_and_pace_allow(pauses: list[float], per_s: float, burst: int) -> None:
    pace, now, admitted = Pace(per_s, burst), 1000.0, 0
    start = now
    for pause in pauses:
        if not pace.wait_s(now):
            pace.admit(now)
            admitted += 1
        now += pause
    assert admitted <= burst + (now - start) * per_s + 1e-6


@given(st.floats(0.1, 100), st.integers(1, 5))
def test_who_has_waited_is_admitted(per_s: float, burst: int) -> None:
    pace, now = Pace(per_s, burst), 50.0
    for _ in range(20):
        now += pace.wait_s(now) + 1e-9
        assert pace.wait_s(now) == 0.0
        pace.admit(now)
