"""A message on its way: what the queue stores, and what a job worker makes of many of them.

On the wire both are a `BroadcastRoomReq`; here each role has its own record.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError

from schema.access import NO_ROOM_OR_DATA
from schema.proto.conn_pb2 import BroadcastRoomReq, Item as ItemPb

MAX_BODY_BYTES: Final = 1 << 20
"""The largest body that a queue takes: nsqd's --max-msg-size where nobody has said otherwise, and nsqd does
not tell."""
ENVELOPE_BYTES: Final = 512
"""What a body carries around the data of a message, generously: room name, sender, identity."""


class Level(IntEnum):
    """How much a message matters: NORMAL may be dropped at a slow client, IMPORTANT may not."""

    NORMAL = 0
    IMPORTANT = 1


class Malformed(ValueError):
    """Bytes that are not the record they should be."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a room, before it is merged.

    Attributes:
        room: the room's name.
        level: anything but 1 (IMPORTANT) counts as NORMAL.
        data: the application's bytes, never looked into.
        origin: boot id of the conn server that took it; 0 for a Go conn server's.
        origin_seq: its number there, from 1; (origin, origin_seq) is the message's identity.
        sender: user name, empty where unknown.
        sent_at_ms: Unix time in milliseconds at the origin, 0 where unknown.
    """

    room: str
    level: Level
    data: bytes
    origin: int = 0
    origin_seq: int = 0
    sender: str = ""
    sent_at_ms: int = 0

    def encode(self) -> bytes:
        """Return the queue body."""
        return BroadcastRoomReq(
            roomID=self.room,
            msgLv=self.level,  # type: ignore[arg-type]
            data=self.data,
            origin=self.origin,
            origin_seq=self.origin_seq,
            sender=self.sender,
            sent_at_ms=self.sent_at_ms,
        ).SerializeToString()

    @classmethod
    def decode(cls, body: bytes) -> Message:
        """Read a queue body, ours or a Go conn server's.

        Raises:
            Malformed: not a `BroadcastRoomReq`, or one without room or data.
        """
        try:
            pb = BroadcastRoomReq.FromString(body)
        except DecodeError as exc:
            raise Malformed(f"not a BroadcastRoomReq: {exc}") from exc
        if not pb.roomID or not pb.data:
            raise Malformed("a message needs a room and data")
        return cls(pb.roomID, level_of(pb.msgLv), pb.data, pb.origin, pb.origin_seq, pb.sender, pb.sent_at_ms)

    @property
    def item(self) -> Item:
        """What a client of version >= 1 is told about this message."""
        identity = self.origin.to_bytes(8, "big") + self.origin_seq.to_bytes(8, "big") if self.origin else b""
        return Item(self.sender, self.sent_at_ms, identity)


@dataclass(frozen=True, slots=True)
class Item:
    """Who said one record of a push, when (Unix ms), and its 16-byte identity (empty: none)."""

    sender: str
    sent_at_ms: int
    id: bytes


@dataclass(frozen=True, slots=True)
class Push:
    """A merged batch of one room, from job worker to conn server.

    Attributes:
        body: the merged records (schema/batch.py); exactly one if IMPORTANT.
        items: one per record, or none at all when a Go job worker sent it.
    """

    room: str
    level: Level
    body: bytes
    items: tuple[Item, ...] = ()

    def encode(self, *, version: int = 1) -> bytes:
        """Return the `BroadcastRoomReq` for a peer of `version`; 0 is byte for byte the Go system's."""
        return self.to_request(version=version).SerializeToString()

    def to_request(self, *, version: int = 1) -> BroadcastRoomReq:
        """Return what `encode` serializes."""
        pb = BroadcastRoomReq(roomID=self.room, msgLv=self.level, data=self.body)  # type: ignore[arg-type]
        if version:
            pb.items.extend(ItemPb(sender=i.sender, sent_at_ms=i.sent_at_ms, id=i.id) for i in self.items)
        return pb

    @classmethod
    def decode(cls, body: bytes) -> Push:
        """Read what a job worker sent, ours or Go's.

        Raises:
            Malformed: not a `BroadcastRoomReq`, or one without room or data.
        """
        try:
            pb = BroadcastRoomReq.FromString(body)
        except DecodeError as exc:
            raise Malformed(f"not a BroadcastRoomReq: {exc}") from exc
        return cls.of(pb)

    @classmethod
    def of(cls, pb: BroadcastRoomReq) -> Push:
        """Make a push of an already parsed `BroadcastRoomReq`.

        Raises:
            Malformed: it has no room or no data.
        """
        if not pb.roomID or not pb.data:
            raise Malformed(NO_ROOM_OR_DATA)
        items = tuple(Item(i.sender, i.sent_at_ms, i.id) for i in pb.items)
        return cls(pb.roomID, level_of(pb.msgLv), pb.data, items)


def level_of(number: int) -> Level:
    """Return the level of a wire number; unknown ones are NORMAL."""
    return Level.IMPORTANT if number == Level.IMPORTANT else Level.NORMAL
