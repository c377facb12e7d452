"""A descriptor is looked at when its time has come, once, and never much later than that."""

from __future__ import annotations

from hypothesis import given, strategies as st

from conn_server.deadlines import LONGEST_S, RESOLUTION_S, Deadlines

NOW = 1000.0


def test_descriptor_is_due_when_its_time_has_come_and_not_before() -> None:
    deadlines = Deadlines(NOW)
    deadlines.set(5, NOW + 10, NOW)
    assert deadlines.due(NOW + 9.9) == []
    assert deadlines.due(NOW + 10) == [5]
    assert deadlines.due(NOW + 99) == []


def test_earlier_time_replaces_a_later_one_and_not_the_other_way_round() -> None:
    deadlines = Deadlines(NOW)
    deadlines.set(5, NOW + 10, NOW)
    deadlines.set(5, NOW + 2, NOW)
    deadlines.set(5, NOW + 20, NOW)
    assert deadlines.due(NOW + 2) == [5]
    assert deadlines.due(NOW + 30) == []


def test_time_that_is_over_already_is_due_at_the_next_look() -> None:
    deadlines = Deadlines(NOW)
    deadlines.set(5, NOW - 10, NOW)
    assert deadlines.due(NOW + RESOLUTION_S) == [5]


def test_forgotten_descriptor_is_not_due_and_may_be_set_again() -> None:
    deadlines = Deadlines(NOW)
    deadlines.set(5, NOW + 1, NOW)
    deadlines.forget(5)
    deadlines.set(5, NOW + 3, NOW)
    assert deadlines.due(NOW + 2) == []
    assert deadlines.due(NOW + 3) == [5]


def test_distant_times_are_looked_at_early() -> None:
    deadlines = Deadlines(NOW)
    deadlines.set(5, float("inf"), NOW)
    assert deadlines.due(NOW + LONGEST_S) == [5]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 2 * LONGEST_S), st.floats(0, 5)), max_size=60),
)
def test_nothing_is_forgotten_and_nothing_is_late(steps: list[tuple[int, float, float]]) -> None:
    deadlines, now, wanted = Deadlines(NOW), NOW, dict[int, float]()
    for fd, after, passed in steps:
        at = now + after
        deadlines.set(fd, at, now)
        wanted[fd] = min(wanted.get(fd, at), at, now + LONGEST_S)
        now += passed
        due = deadlines.due(now)
        assert len(due) == len(set(due))
        for one in due:
            del wanted[one]
        assert all(at > now - 2 * RESOLUTION_S for at in wanted.values())
