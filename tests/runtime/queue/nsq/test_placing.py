"""Topics over nsqds, deliveries over connections."""

from __future__ import annotations

from hypothesis import given, strategies as st

from runtime.queue.nsq.placing import choose, shares

ADDRESSES = [f"10.0.0.{n}:4150" for n in range(5)]
TOPICS = [f"chat_room.{n}" for n in range(200)]


def test_choice_does_not_depend_on_the_order_of_addresses() -> None:
    assert all(choose(topic, ADDRESSES) == choose(topic, reversed(ADDRESSES)) for topic in TOPICS)


def test_choice_is_the_same_in_every_process_and_release() -> None:
    assert choose("chat_room", ADDRESSES) == "10.0.0.4:4150"


def test_every_address_gets_topics() -> None:
    assert {choose(topic, ADDRESSES) for topic in TOPICS} == set(ADDRESSES)


def test_lost_address_moves_its_own_topics_only() -> None:
    left = ADDRESSES[1:]
    assert all(
        choose(topic, left) == choose(topic, ADDRESSES) or choose(topic, ADDRESSES) == ADDRESSES[0]
        for topic in TOPICS
    )


def test_nobody_is_chosen_of_none() -> None:
    assert choose("t", []) is None


@given(st.integers(0, 5000), st.lists(st.integers(1, 2500), max_size=12), st.integers(0, 50))
def test_shares_stay_within_total_and_limits(total: int, limits: list[int], turn: int) -> None:
    given_out = shares(total, limits, turn)
    assert sum(given_out) <= total
    assert all(0 <= share <= limit for share, limit in zip(given_out, limits, strict=True))
    if limits and total <= min(limits) * len(limits):
        assert sum(given_out) == total


def test_too_few_for_all_go_around() -> None:
    had = [sum(share) for share in zip(*(shares(2, [9] * 5, turn) for turn in range(5)), strict=True)]
    assert had == [2] * 5
