from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, strategies as st

from conn_server.workers.health import (
    LONGEST_PAUSE_S,
    SHORTEST_PAUSE_S,
    START_WITHIN_S,
    STEADY_S,
    Health,
    State,
)
from runtime.lifecycle import EXIT_DRAINED, EXIT_FAILED, EXIT_SETUP

FEED_S = 15.0
START = 100.0


def started() -> Health:
    health = Health(FEED_S)
    health.started(START)
    return health


def serving() -> Health:
    health = started()
    health.heard("READY=1", START)
    return health


@pytest.mark.parametrize(
    ("said", "states"),
    [
        ([], ["starting"]),
        (["READY=1"], ["starting", "serving"]),
        (["READY=1", "STOPPING=1"], ["starting", "serving", "draining"]),
        (["READY=1", "STOPPING=1", "READY=1"], ["starting", "serving", "draining", "draining"]),
        (["STOPPING=1"], ["starting", "draining"]),
        (["WATCHDOG=1", "STATUS=serving", "EXTEND_TIMEOUT_USEC=1", ""], ["starting"] * 5),
    ],
)
def test_state_follows_what_the_worker_says(said: list[str], states: list[str]) -> None:
    health = started()
    seen = [str(health.state)]
    for assignment in said:
        health.heard(assignment, START)
        seen.append(str(health.state))
    assert seen == states


def test_worker_that_is_not_there_is_never_late_and_says_nothing() -> None:
    health = Health(FEED_S)
    for said in ("READY=1", "STOPPING=1", "WATCHDOG=1"):
        health.heard(said, START)
    assert (health.state, health.due, health.has_served) == (State.STOPPED, inf, False)


def test_worker_has_a_minute_to_get_ready_and_feeding_does_not_prolong_it() -> None:
    health = started()
    health.heard("WATCHDOG=1", START + 50)
    assert not health.is_late(START + START_WITHIN_S - 0.1)
    assert health.is_late(START + START_WITHIN_S)
    assert health.blame() == "not ready after 1m"
    assert health.ended(-6, START + START_WITHIN_S) == "not_ready"


@pytest.mark.parametrize("before", [["READY=1"], ["READY=1", "STOPPING=1"]])
def test_worker_is_late_when_it_has_not_fed_for_its_interval(before: list[str]) -> None:
    health = started()
    for said in before:
        health.heard(said, START)
    health.heard("WATCHDOG=1", START + 10)
    assert not health.is_late(START + 10 + FEED_S - 0.1)
    assert health.is_late(START + 10 + FEED_S)
    assert health.blame() == "no sign of life for 15s"
    assert health.ended(-9, START + 30) == "stalled"


@pytest.mark.parametrize(
    ("exit_code", "reason"),
    [
        (-9, "killed"),
        (EXIT_DRAINED, "drained"),
        (EXIT_FAILED, "failed"),
        (EXIT_SETUP, "setup"),
        (143, "failed"),
    ],
)
def test_end_has_the_reason_that_its_exit_code_says(exit_code: int, reason: str) -> None:
    health = serving()
    assert health.ended(exit_code, START + 1) == reason
    assert health.ends == {reason: 1}
    assert (health.state, health.due) == (State.STOPPED, inf)
    assert health.has_served


def test_blame_ends_with_the_process_that_had_it() -> None:
    health = serving()
    health.blame()
    health.ended(-6, START)
    health.started(START)
    assert health.ended(-9, START) == "killed"
    assert health.ends == {"stalled": 1, "killed": 1}


def test_pause_doubles_with_each_end_up_to_a_cap() -> None:
    health = started()
    pauses = []
    for _ in range(9):
        health.started(START)
        health.ended(1, START)
        pauses.append(health.pause_s(1.0))
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


def test_worker_that_could_not_even_be_started_is_waited_for_as_well() -> None:
    health = Health(FEED_S)
    health.not_started()
    health.not_started()
    assert health.pause_s(1.0) == 2 * SHORTEST_PAUSE_S
    assert health.ends == {"not_started": 2}


def test_worker_that_has_served_for_a_while_has_the_shortest_pause_again() -> None:
    health = started()
    for _ in range(5):
        health.started(START)
        health.heard("READY=1", START)
        health.ended(1, START + STEADY_S - 1)
    assert health.pause_s(1.0) > SHORTEST_PAUSE_S
    health.started(START)
    health.heard("READY=1", START)
    health.ended(1, START + STEADY_S)
    assert health.pause_s(1.0) == SHORTEST_PAUSE_S


@given(st.integers(1, 2000), st.floats(0, 1))
def test_pause_is_drawn_from_half_to_all_and_stays_under_the_cap(ends: int, chance: float) -> None:
    health = Health(FEED_S)
    for _ in range(ends):
        health.not_started()
    assert health.pause_s(1.0) / 2 <= health.pause_s(chance) <= health.pause_s(1.0) <= LONGEST_PAUSE_S
