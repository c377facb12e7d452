"""The client's end of schema/envelope.py: requests to bytes, replies and pushes to records.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from schema.batch import BatchError, unpack
from schema.envelope import PackageType, SignedIn
from schema.message import Item, Level, Malformed, Push
from schema.proto import conn_pb2 as pb

_UNKNOWN_ITEM = Item("", 0, b"")


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded `Reply` that is not a push; `id` is 0 to a Go-era client."""

    type: int
    data: bytes
    id: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decoded `Err`: code 0 is success; `signed_in` comes with the sign-in of a version >= 1 client."""

    code: int
    text: str
    signed_in: SignedIn | None


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a room, as it arrived.

    Attributes:
        sender: user name, empty where unknown (and always for a Go-era client).
        sent_at_ms: Unix time in milliseconds, 0 where unknown.
        id: 16 bytes, the same wherever and however often the message arrives; empty where unknown.
        batch: which push of this connection brought it, from 1.
        index: its place in that push, from 0.
    """

    room: str
    level: Level
    data: bytes
    sender: str
    sent_at_ms: int
    id: bytes
    batch: int
    index: int


def encode_request(type_: PackageType, data: bytes = b"", request_id: int = 0) -> bytes:
    """Return a `Req`; a `request_id` of 0 is left out."""
    return pb.Req(type=type_, data=data, id=request_id).SerializeToString()  # type: ignore[arg-type]


def encode_sign_in(token: str, room: str, version: int) -> bytes:
    """Return the data of a SIGN_IN request; version 0 is byte for byte the Go system's."""
    return pb.SignIn(token=token, roomID=room, version=version).SerializeToString()


def encode_publish(room: str, level: Level, data: bytes) -> bytes:
    """Return the data of a MESSAGE request."""
    return pb.BroadcastRoomReq(roomID=room, msgLv=level, data=data).SerializeToString()  # type: ignore[arg-type]


def decode_reply(payload: bytes) -> Answer:
    """Read a server's frame.

    Raises:
        Malformed: not a `Reply`.
    """
    try:
        reply = pb.Reply.FromString(payload)
    except DecodeError as exc:
        raise Malformed(str(exc)) from exc
    return Answer(reply.type, reply.data, reply.id)


def decode_verdict(data: bytes) -> Verdict:
    """Read the data of a reply of type 0 or ACK.

    Raises:
        Malformed: not an `Err`.
    """
    try:
        err = pb.Err.FromString(data)
    except DecodeError as exc:
        raise Malformed(str(exc)) from exc
    if not err.HasField("signed_in"):
        return Verdict(err.code, err.msg, None)
    told = err.signed_in
    return Verdict(err.code, err.msg, SignedIn(told.members, told.heartbeat_timeout_s, told.server_time_ms))


def decode_push(data: bytes, batch: int) -> tuple[Received, ...]:
    """Read the data of a MESSAGE reply: all of its records, or none.

    Raises:
        Malformed: not a push, its body ends inside a record, or its items are not one per record.
    """
    push = Push.decode(data)
    try:
        return tuple(_records(push, batch))
    except (BatchError, ValueError) as exc:
        raise Malformed(str(exc)) from exc


def _records(push: Push, batch: int) -> Iterator[Received]:
    records = tuple(unpack(push.body))
    items = push.items or (_UNKNOWN_ITEM,) * len(records)  # a Go job worker names no items
    for index, (data, item) in enumerate(zip(records, items, strict=True)):
        yield Received(push.room, push.level, data, item.sender, item.sent_at_ms, item.id, batch, index)
