"""Who is in which room of this node.  Pure.

Rules
1. A room exists exactly as long as it has a member.
2. A member is in a room at most once; leaving a room one is not in changes nothing.
3. Members keep the order in which they joined: broadcasts walk those of a generation in that order.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from schema.access import Unavailable

M = TypeVar("M", bound=Hashable)


@dataclass(frozen=True, slots=True)
class RoomsStatistics:
    """How many rooms and memberships there are, and how often the limit on rooms refused a join."""

    rooms: int
    memberships: int
    refused_room_limit: int


class Rooms(Generic[M]):
    """The registry of one node.  Owned by the conn server's app; members put themselves in and out.

    Args:
        max_rooms: joining a room that would be one more raises `Unavailable`.

    Attributes:
        departures: memberships that have ended; as long as it stays the same, whoever was in a room is.
    """

    def __init__(self, max_rooms: int) -> None:
        self._max_rooms = max_rooms
        self._rooms: dict[str, dict[M, int]] = {}
        self._refused = 0
        self.departures = 0

    def join(self, member: M, room: str, version: int) -> None:
        """Put `member`, a client of generation `version`, into `room`.

        Raises:
            Unavailable: the node has its full number of rooms; nothing was changed.
        """
        members = self._rooms.get(room)
        if members is None:
            if len(self._rooms) >= self._max_rooms:
                self._refused += 1
                raise Unavailable("this node has no place for another room, try again later")
            members = self._rooms[room] = {}
        members[member] = version

    def leave(self, member: M, room: str) -> None:
        """Take `member` out of `room`; the last one takes the room along."""
        members = self._rooms.get(room)
        if members is not None and members.pop(member, None) is not None:
            self.departures += 1
            if not members:
                del self._rooms[room]

    def members(self, room: str) -> Mapping[M, int]:
        """Return the members of `room` and their generations: a live view, empty for no room."""
        return self._rooms.get(room, {})

    def statistics(self) -> RoomsStatistics:
        """Return what there is now."""
        memberships = sum(map(len, self._rooms.values()))
        return RoomsStatistics(len(self._rooms), memberships, self._refused)
