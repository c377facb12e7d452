"""Client frames <-> records.  One WebSocket message holds one `Req` or one `Reply`.

    Req    08 type | 12 length data | 50 id          (protobuf; field numbers 1, 2, 10)
    Reply  08 type | 12 length data | 50 id          (type 0 is left out, as proto3 does)

    heartbeat           08 02           -> 08 02 12 04 70 6f 6e 67   ("pong")
    sign-in accepted                       12 05 12 03 73 75 63      (type 0, Err{0, "suc"})

The golden bytes are in tests/vectors/envelope.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError

from schema.access import SIGN_IN_FIRST, Code
from schema.message import Level, Malformed, Push, level_of
from schema.proto import conn_pb2 as pb


class PackageType(IntEnum):
    """The types of `Req` and `Reply`."""

    UNKNOWN = 0
    SIGN_IN = 1
    HEARTBEAT = 2
    MESSAGE = 3
    MEMBERS = 4
    ACK = 5
    EVENT = 6


MAX_FRAME_BYTES: Final = 64 * 1024
MAX_DATA_BYTES: Final = 60 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded `Req`.  `type` may be a number that `PackageType` does not know."""

    type: int
    data: bytes
    id: int


@dataclass(frozen=True, slots=True)
class SignIn:
    """What a client signs in with; `version` 0 is a Go-era client."""

    token: str
    room: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class Publish:
    """What a client wants said in a room."""

    room: str
    level: Level
    data: bytes


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a client of version >= 1 is told on success.

    Attributes:
        members: of the room, the new one included.
        heartbeat_timeout_s: a connection silent for longer is closed with 4002.
        server_time_ms: Unix time in milliseconds.
    """

    members: int
    heartbeat_timeout_s: int
    server_time_ms: int


def decode_request(payload: bytes) -> Request:
    """Read a client's frame.

    Raises:
        Malformed: not a `Req`.
    """
    try:
        req = pb.Req.FromString(payload)
    except DecodeError as exc:
        raise Malformed(str(exc)) from exc
    return Request(req.type, req.data, req.id)


def decode_sign_in(data: bytes) -> SignIn:
    """Read the data of a SIGN_IN request.

    Raises:
        Malformed: not a `SignIn`.
    """
    try:
        sign_in = pb.SignIn.FromString(data)
    except DecodeError as exc:
        raise Malformed(str(exc)) from exc
    return SignIn(sign_in.token, sign_in.roomID, sign_in.version)


def decode_publish(data: bytes) -> Publish:
    """Read the data of a MESSAGE request; fields beyond the Go system's are not the client's to set.

    Raises:
        Malformed: not a `BroadcastRoomReq`.
    """
    try:
        req = pb.BroadcastRoomReq.FromString(data)
    except DecodeError as exc:
        raise Malformed(str(exc)) from exc
    return Publish(req.roomID, level_of(req.msgLv), req.data)


def encode_reply(type_: PackageType, data: bytes, request_id: int = 0) -> bytes:
    """Return a `Reply`; a `request_id` of 0 is left out."""
    return pb.Reply(type=type_, data=data, id=request_id).SerializeToString()  # type: ignore[arg-type]


def encode_error(code: Code, text: str, request_id: int = 0) -> bytes:
    """Return a `Reply` of type 0 that carries an `Err`."""
    return encode_reply(PackageType.UNKNOWN, pb.Err(code=code, msg=text).SerializeToString(), request_id)


def encode_ack(code: Code, text: str, request_id: int) -> bytes:
    """Return the answer to a MESSAGE, or to an unknown request, that had an id."""
    return encode_reply(PackageType.ACK, pb.Err(code=code, msg=text).SerializeToString(), request_id)


def encode_signed_in(signed_in: SignedIn | None, request_id: int = 0) -> bytes:
    """Return the answer to a sign-in that succeeded; None is a Go-era client's."""
    err = pb.Err(msg="suc")
    if signed_in is not None:
        err.signed_in.members = signed_in.members
        err.signed_in.heartbeat_timeout_s = signed_in.heartbeat_timeout_s
        err.signed_in.server_time_ms = signed_in.server_time_ms
    return encode_reply(PackageType.UNKNOWN, err.SerializeToString(), request_id)


def encode_pong(request_id: int = 0) -> bytes:
    """Return the answer to a heartbeat."""
    return encode_reply(PackageType.HEARTBEAT, b"pong", request_id)


def encode_members(count: int, request_id: int = 0) -> bytes:
    """Return the answer to MEMBERS."""
    return encode_reply(PackageType.MEMBERS, str(count).encode(), request_id)


def encode_push(push: Push, version: int) -> bytes:
    """Return the `Reply` that carries `push` to clients of one generation."""
    return encode_reply(PackageType.MESSAGE, push.encode(version=version))


HEARTBEAT: Final = b"\x08\x02"
PONG: Final = encode_pong()
SIGNED_IN: Final = encode_signed_in(None)
NOT_SIGNED_IN: Final = encode_error(Code.NOT_SIGNED_IN, SIGN_IN_FIRST)
