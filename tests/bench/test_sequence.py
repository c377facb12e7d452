from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from bench.sequence import HEAD_BYTES, Faults, Stamp, Tracker, read_stamp
from schema.gojson import encode_string

u32 = st.integers(0, 2**32 - 1)
stamps = st.builds(Stamp, u32, u32, u32, st.integers(0, 2**63))


@given(stamps, st.integers(HEAD_BYTES, 300))
def test_stamp_is_read_back_from_a_message_of_the_size_asked_for(stamp: Stamp, size: int) -> None:
    message = stamp.encode(size)
    assert len(message) == size
    assert read_stamp(message) == stamp


@given(stamps)
def test_stamp_is_read_from_the_json_string_that_msg_makes_of_it(stamp: Stamp) -> None:
    assert read_stamp(encode_string(stamp.encode(60).decode())) == stamp


@pytest.mark.parametrize("data", [b"", b"hello", b"rcb", b"rcb" + b"z" * 40, b'"rcb', b'"'])
def test_what_no_load_has_made_has_no_stamp(data: bytes) -> None:
    assert read_stamp(data) is None


def judged(numbers: list[int], sender: int = 1) -> tuple[int, Faults]:
    faults = Faults()
    tracker = Tracker(faults)
    places: dict[int, int] = {}
    for number in numbers:
        place = places.setdefault(number, len(places))
        tracker.saw(Stamp(1, sender, number, 0), place)
    return tracker.unique, faults


@pytest.mark.parametrize(
    ("numbers", "unique", "late", "duplicates"),
    [
        ([1, 2, 3], 3, 0, 0),
        ([1, 3], 2, 0, 0),  # 2 is lost
        ([1, 3, 2], 3, 1, 0),
        ([1, 1, 2], 2, 0, 1),
        ([1, 3, 2, 2], 3, 1, 1),
        ([3, 1, 2], 3, 2, 0),
        ([2, 1, 1, 3], 3, 1, 1),
    ],
)
def test_one_sender(numbers: list[int], unique: int, late: int, duplicates: int) -> None:
    seen, faults = judged(numbers)
    assert (seen, faults.late, faults.duplicates) == (unique, late, duplicates)


@given(st.lists(st.integers(1, 30), max_size=60))
def test_unique_and_duplicates_are_all_that_came(numbers: list[int]) -> None:
    unique, faults = judged(numbers)
    assert unique == len(set(numbers))
    assert faults.duplicates == len(numbers) - unique


def test_senders_are_told_apart() -> None:
    faults = Faults()
    tracker = Tracker(faults)
    for place, (sender, number) in enumerate([(1, 1), (2, 1), (1, 2), (2, 2)]):
        assert tracker.saw(Stamp(1, sender, number, 0), place)
    assert faults == Faults()


def test_two_receivers_that_see_two_orders_are_noticed() -> None:
    faults = Faults()
    one, other = Tracker(faults), Tracker(faults)
    first, second = Stamp(1, 1, 1, 0), Stamp(1, 2, 1, 0)
    one.saw(first, 1)
    one.saw(second, 2)
    other.saw(second, 2)
    other.saw(first, 1)
    assert faults == Faults(disordered=1)
