from __future__ import annotations

from collections.abc import Sequence

import pytest

from schema.message import Level
from tests.integration.ledger import LATE_S, Ledger, Session

NORMAL = Level.NORMAL


def books(*heard: Sequence[int], said: int = 4) -> tuple[Ledger, list[Session]]:
    """Return a ledger where one message a second was said and accepted, and members who have heard some."""
    ledger = Ledger()
    sessions = [ledger.enters(f"member {number}", "room", number, 0.0) for number in range(len(heard))]
    for number in range(said):
        entry = ledger.says("room", NORMAL, number + 1.0)
        entry.accepted_at = entry.at + 0.1
    for session, numbers in zip(sessions, heard, strict=True):
        for number in numbers:
            session.hears(number, number + 1.2)
    return ledger, sessions


def test_books_are_in_order_when_everybody_has_heard_everything() -> None:
    ledger, _ = books([0, 1, 2, 3], [0, 1, 2, 3])
    assert (ledger.missing(), ledger.repeated(), ledger.disorder()) == ([], 0, 0)


def test_what_was_accepted_and_not_heard_is_missing() -> None:
    ledger, _ = books([0, 1, 3], [0, 1, 2, 3])
    (missing,) = ledger.missing()
    assert (missing.said.number, missing.member) == (2, "member 0")
    assert ledger.missing(until=2.9) == []
    assert ledger.missing(until=3.0) == [missing]  # the clock stands still between two ticks


def test_nothing_is_owed_of_what_was_not_accepted() -> None:
    ledger, _ = books([0, 1, 3])
    ledger.said[2].accepted_at = None
    assert ledger.missing() == []


def test_nothing_is_owed_to_who_came_later_or_has_left() -> None:
    ledger, (late, left) = books([2, 3], [0, 1])
    late.since, left.left_at = 2.0, 2.5
    assert ledger.missing() == []


def test_another_order_is_noticed_between_any_two_members() -> None:
    ledger, _ = books([0, 1, 2, 3], [0, 1, 2, 3], [0, 2, 1, 3])
    assert ledger.disorder() > 0


def test_order_of_what_only_some_have_heard_is_no_disorder() -> None:
    ledger, _ = books([0, 2], [1, 3], [0, 1, 2, 3])
    assert ledger.disorder() == 0


def test_what_the_queue_gives_again_is_counted_and_has_no_place_in_the_order() -> None:
    ledger, (one, _) = books([1, 0, 2], [0, 1, 2, 3], said=4)
    one.hears(0, 4.0)
    assert (ledger.repeated(), ledger.requeued(), ledger.disorder()) == (1, {0}, 0)
    one.hears(3, 4.1 + LATE_S + 0.1)
    assert ledger.requeued() == {0, 3}


def test_silence_is_the_longest_gap_of_any_member_borders_included() -> None:
    ledger, _ = books([0, 1, 2, 3], [1, 3])
    assert ledger.silence(1.2, 5.2) == pytest.approx(2)
    assert ledger.silence(2.2, 8.2) == pytest.approx(4)


def test_news_is_what_was_said_afterwards() -> None:
    ledger, _ = books([0, 1, 2, 3], [0, 2])
    assert ledger.first_heard(1.5) == pytest.approx(3.2)
    assert ledger.first_heard(3.5) is None
