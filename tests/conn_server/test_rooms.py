from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from conn_server.rooms import Rooms, RoomsStatistics
from schema.access import Unavailable


def test_room_exists_as_long_as_it_has_a_member() -> None:
    rooms: Rooms[str] = Rooms(10)
    rooms.join("ann", "a", 0)
    rooms.join("bob", "a", 1)
    assert dict(rooms.members("a")) == {"ann": 0, "bob": 1}
    rooms.leave("ann", "a")
    rooms.leave("bob", "a")
    assert rooms.statistics() == RoomsStatistics(0, 0, 0)
    assert not rooms.members("a")


def test_joining_twice_is_one_membership_and_leaving_twice_is_no_error() -> None:
    rooms: Rooms[str] = Rooms(10)
    rooms.join("ann", "a", 0)
    rooms.join("ann", "a", 1)
    assert rooms.statistics().memberships == 1
    rooms.leave("ann", "a")
    rooms.leave("ann", "a")
    rooms.leave("ann", "never")
    assert rooms.statistics() == RoomsStatistics(0, 0, 0)


def test_room_over_the_limit_is_refused_and_changes_nothing() -> None:
    rooms: Rooms[str] = Rooms(1)
    rooms.join("ann", "a", 0)
    with pytest.raises(Unavailable):
        rooms.join("bob", "b", 0)
    rooms.join("bob", "a", 0)
    assert rooms.statistics() == RoomsStatistics(1, 2, 1)


steps = st.lists(st.tuples(st.booleans(), st.sampled_from("xyz"), st.sampled_from("ab")))


@given(steps)
def test_members_are_those_who_joined_and_did_not_leave_in_joining_order(
    steps: list[tuple[bool, str, str]],
) -> None:
    rooms: Rooms[str] = Rooms(10)
    model: dict[str, list[str]] = {"a": [], "b": []}
    for joining, member, room in steps:
        if joining:
            rooms.join(member, room, 0)
            if member not in model[room]:
                model[room].append(member)
        else:
            rooms.leave(member, room)
            if member in model[room]:
                model[room].remove(member)
    assert {room: list(rooms.members(room)) for room in "ab"} == model
    assert rooms.statistics().rooms == sum(map(bool, model.values()))
