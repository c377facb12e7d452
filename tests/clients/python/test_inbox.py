from __future__ import annotations

from hypothesis import given, strategies as st

from clients.python.frames import Received
from clients.python.inbox import Inbox, Offer
from schema.message import Level


def message(number: int, size: int = 1, level: Level = Level.NORMAL) -> Received:
    return Received("lobby", level, bytes(size), "ann", 0, b"", number, 0)


def drain(inbox: Inbox) -> list[int]:
    return [taken.batch for taken in iter(inbox.take_nowait, None)]


def test_oldest_normal_messages_give_way() -> None:
    inbox = Inbox(max_messages=3, max_bytes=100)
    assert {inbox.offer(message(number)) for number in range(5)} == {Offer.TAKEN}
    assert inbox.dropped == 2
    assert drain(inbox) == [2, 3, 4]
    assert (len(inbox), inbox.size_bytes) == (0, 0)


def test_important_messages_stay_and_push_normal_ones_out() -> None:
    inbox = Inbox(max_messages=3, max_bytes=100)
    inbox.offer(message(0, level=Level.IMPORTANT))
    for number in range(1, 4):
        inbox.offer(message(number))
    assert inbox.offer(message(4, level=Level.IMPORTANT)) is Offer.TAKEN
    assert drain(inbox) == [0, 3, 4]


def test_full_of_important_messages_drops_a_normal_one_and_has_no_room_for_another() -> None:
    inbox = Inbox(max_messages=2, max_bytes=100)
    for number in range(2):
        inbox.offer(message(number, level=Level.IMPORTANT))
    assert inbox.offer(message(2)) is Offer.DROPPED
    assert inbox.offer(message(3, level=Level.IMPORTANT)) is Offer.OVERFULL
    assert (inbox.dropped, drain(inbox)) == (1, [0, 1])


def test_empty_inbox_takes_what_is_larger_than_its_limit() -> None:
    inbox = Inbox(max_messages=3, max_bytes=100)
    assert inbox.offer(message(0, size=1000, level=Level.IMPORTANT)) is Offer.TAKEN


@given(
    st.lists(
        st.one_of(
            st.none(), st.tuples(st.integers(0, 60), st.sampled_from(list(Level))).map(lambda drawn: drawn)
        ),
        max_size=60,
    )
)
def test_order_bounds_and_counts_hold(steps: list[tuple[int, Level] | None]) -> None:
    inbox = Inbox(max_messages=4, max_bytes=100)
    read: list[int] = []
    offered, refused = 0, 0
    for number, step in enumerate(steps):
        if step is None:
            taken = inbox.take_nowait()
            read += [] if taken is None else [taken.batch]
        else:
            offered += 1
            refused += inbox.offer(message(number, *step)) is Offer.OVERFULL
        assert len(inbox) <= 4
        assert inbox.size_bytes <= 100
    read += drain(inbox)
    assert read == sorted(read)
    assert len(read) + inbox.dropped + refused == offered
