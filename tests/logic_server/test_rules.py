"""Rules: what is refused and why, and how fast a user may publish."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from logic_server.rules import Limits, Rules
from schema.access import Code, Grant, Refused
from schema.message import Level, Message


def message(room: str = "lobby", data: bytes = b"x") -> Message:
    return Message(room, Level.NORMAL, data)


def refusal(check: Callable[[], object]) -> Code:
    with pytest.raises(Refused) as caught:
        check()
    return caught.value.code


def test_token_without_rooms_may_join_every_room_by_default() -> None:
    grant = Rules(Limits()).check_join(Grant(1, "1"))
    assert grant.may_join("anything")


def test_token_without_rooms_may_join_those_of_the_settings() -> None:
    grant = Rules(Limits(join=("lobby", "free-*"))).check_join(Grant(1, "1"))
    assert [room for room in ("lobby", "free-1", "secret") if grant.may_join(room)] == ["lobby", "free-1"]


def test_token_with_rooms_keeps_its_own() -> None:
    grant = Grant(1, "1", rooms=("secret",))
    assert Rules(Limits(join=("lobby",))).check_join(grant) is grant


def test_token_without_rooms_is_refused_where_there_are_none() -> None:
    rules = Rules(Limits(join=()))
    assert refusal(lambda: rules.check_join(Grant(1, "1"))) is Code.FORBIDDEN
    assert rules.statistics().refused == {"token_without_rooms": 1}


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (message(room=""), Code.BAD_REQUEST, "room_name"),
        (message(room="a\nb"), Code.BAD_REQUEST, "room_name"),
        (message(data=b""), Code.BAD_REQUEST, "no_data"),
        (message(data=b"x" * 11), Code.TOO_LARGE, "too_large"),
    ],
)
def test_message_that_no_room_would_take_is_refused_and_counted(
    said: Message, code: Code, reason: str
) -> None:
    rules = Rules(Limits(max_data_bytes=10))
    assert refusal(lambda: rules.check_message(said)) is code
    assert rules.statistics().refused == {reason: 1}


def test_message_at_the_limit_is_taken() -> None:
    rules = Rules(Limits(max_data_bytes=10))
    rules.check_message(message(data=b"x" * 10))
    assert rules.statistics().refused == {}


def test_without_a_limit_nobody_is_remembered() -> None:
    rules = Rules(Limits())
    for _ in range(1000):
        rules.check_rate("ann", 1.0)
    assert rules.statistics().users == 0


def test_burst_is_let_through_and_then_one_per_interval() -> None:
    rules = Rules(Limits(publish_interval_s=1.0, publish_burst=3))
    for _ in range(3):
        rules.check_rate("ann", 0.0)
    assert refusal(lambda: rules.check_rate("ann", 0.5)) is Code.TOO_FAST
    rules.check_rate("ann", 1.0)
    assert refusal(lambda: rules.check_rate("ann", 1.5)) is Code.TOO_FAST
    rules.check_rate("ann", 2.0)
    assert rules.statistics().refused == {"too_fast": 2}


def test_users_do_not_slow_each_other_down() -> None:
    rules = Rules(Limits(publish_interval_s=1.0))
    rules.check_rate("ann", 0.0)
    rules.check_rate("bob", 0.0)
    assert refusal(lambda: rules.check_rate("ann", 0.0)) is Code.TOO_FAST


def test_who_is_quiet_is_forgotten() -> None:
    rules = Rules(Limits(publish_interval_s=1.0))
    for number in range(50):
        rules.check_rate(f"user {number}", 0.0)
    for number in range(50):
        rules.check_rate("ann", 10.0 + number)
    statistics = rules.statistics()
    assert (statistics.users, statistics.forgotten) == (1, 0)


def test_memory_is_bounded_and_what_it_costs_is_counted() -> None:
    rules = Rules(Limits(publish_interval_s=100.0, max_users=10))
    for number in range(25):
        rules.check_rate(f"user {number}", 0.0)
    statistics = rules.statistics()
    assert (statistics.users, statistics.forgotten) == (10, 15)


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.floats(0.0, 0.5)), max_size=60),
)
def test_any_user_publishes_at_most_burst_plus_one_per_interval(
    burst: int, steps: list[tuple[str, float]]
) -> None:
    rules = Rules(Limits(publish_interval_s=0.25, publish_burst=burst))
    now = 0.0
    taken: dict[str, list[float]] = {"ann": [], "bob": []}
    for user, pause_s in steps:
        now += pause_s
        try:
            rules.check_rate(user, now)
        except Refused:
            continue
        taken[user].append(now)
    for times in taken.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                most = burst + (times[last] - times[first]) / 0.25
                assert last - first + 1 <= most + 1e-6


@pytest.mark.parametrize("limits", [{"publish_interval_s": -1.0}, {"publish_burst": 0}, {"max_users": 0}])
def test_limits_that_mean_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not limits"):
        Limits(**limits)  # type: ignore[arg-type]
