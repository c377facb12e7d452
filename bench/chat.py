"""What the Python peers answer: the least that speaks the protocol.  Pure.

A sign-in is always accepted, a heartbeat is answered, a message is pushed to the members of its room at once
(one record each), and acknowledged if it has an id.  There are no tokens, no limits and no queue: a peer
shows what its WebSocket library costs, not what a chat costs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from schema.access import Code
from schema.batch import pack
from schema.envelope import (
    HEARTBEAT,
    PONG,
    PackageType,
    decode_publish,
    decode_request,
    decode_sign_in,
    encode_ack,
    encode_push,
    encode_signed_in,
)
from schema.message import Push

SIGNED_IN: Final = encode_signed_in(None)

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Broadcast(Generic[M]):
    """One push, and who gets it."""

    push: bytes
    members: Collection[M]


class Chat(Generic[M]):
    """The rooms of one peer; a member is whatever the peer sends to."""

    def __init__(self) -> None:
        self._rooms: dict[str, dict[M, None]] = {}
        self._room_of: dict[M, str] = {}

    def receive(self, member: M, payload: bytes) -> tuple[bytes | None, Broadcast[M] | None]:
        """Return what to answer `member`, and what to send to its room.

        Raises:
            schema.message.Malformed: not a request.
        """
        if payload == HEARTBEAT:
            return PONG, None
        request = decode_request(payload)
        if request.type == PackageType.SIGN_IN:
            self._join(member, decode_sign_in(request.data).room)
            return SIGNED_IN, None
        if request.type != PackageType.MESSAGE:
            return None, None
        publish = decode_publish(request.data)
        push = encode_push(Push(publish.room, publish.level, pack([publish.data])), 0)
        ack = encode_ack(Code.OK, "suc", request.id) if request.id else None
        return ack, Broadcast(push, self._rooms.get(publish.room, {}).keys())

    def leave(self, member: M) -> None:
        """Take `member` out of its room; a no-op when it is in none."""
        room = self._room_of.pop(member, None)
        if room is not None:
            members = self._rooms[room]
            del members[member]
            if not members:
                del self._rooms[room]

    def _join(self, member: M, room: str) -> None:
        self.leave(member)
        self._rooms.setdefault(room, {})[member] = None
        self._room_of[member] = room
