r"""NSQ's wire, by ansq's codec: commands to bytes, bytes to frames.  The only file that imports ansq.

    command  NAME arg arg \n | length, int32 | body           (the last two only where there is a body)
    frame    size, int32 | type, int32 | payload              (size counts type and payload)
    message  timestamp ns, int64 | attempts, uint16 | id, 16 bytes | body

All integers are big-endian.  https://nsq.io/clients/tcp_protocol_spec.html

Rules, each from a defect of nsqd or of the codec:

1. One `Codec` per connection, and any error of it ends the connection: a bad frame is never consumed.
2. Names and sizes are checked before encoding.  nsqd does not announce its limits and closes the
   connection over them, and ansq leaves out an empty body, after which nsqd waits for it for ever.
3. `attempts` is unsigned on the wire, though ansq reads it signed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ansq.tcp.exceptions import ProtocolError as AnsqProtocolError
from ansq.tcp.protocol import Reader
from ansq.tcp.types import NSQCommands, NSQErrorSchema, NSQMessageSchema

from runtime.queue.nsq.errors import CommandRefused, ProtocolError

MAGIC: Final = b"  V2"
HEARTBEAT: Final = b"_heartbeat_"
OK: Final = b"OK"
CLOSE_WAIT: Final = b"CLOSE_WAIT"
# Error frames that answer a FIN, REQ or TOUCH that came too late.  After all others nsqd hangs up.
TOO_LATE: Final = frozenset({"E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED"})
MAX_FRAME_BYTES: Final = 16 << 20
# What an MPUB adds to its bodies: a count, and a length for each.
MPUB_BYTES: Final = 4
BODY_BYTES: Final = 4

_SIZE: Final = struct.Struct(">i")
_TYPE_BYTES: Final = 4
# ansq copies what is left in its buffer after each frame: a small buffer makes that cheap.
_SLICE_BYTES: Final = 4096
_ENCODER: Final = Reader()


@dataclass(frozen=True, slots=True)
class Reply:
    """nsqd's answer to a command, or a heartbeat."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message on loan: its 16 letters of id, and `timestamp_ns`, when nsqd first had it, Unix time."""

    id: str
    attempts: int
    timestamp_ns: int
    body: bytes


Frame: TypeAlias = Reply | Message | CommandRefused


class Codec:
    """The frames of one connection.  Its owner is the connection's reader; it dies with it."""

    __slots__ = ("_max_frame_bytes", "_reader")

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._reader = Reader()
        self._max_frame_bytes = max_frame_bytes

    def frames(self, data: bytes) -> Iterator[Frame]:
        """Take in `data` and iterate over the frames that are complete with it.

        Iterate to the end, or the rest of `data` is not taken in.

        Raises:
            ProtocolError: no frame, or one that is too long; the connection is of no more use.
        """
        for start in range(0, len(data), _SLICE_BYTES):
            self._reader.feed(data[start : start + _SLICE_BYTES])
            while (frame := self._next()) is not None:
                yield frame

    def _next(self) -> Frame | None:
        buffer = self._reader.buffer
        if len(buffer) < _SIZE.size:
            return None
        # ansq believes any size, and would wait for it or slice with a negative one.
        (size,) = _SIZE.unpack_from(buffer)
        if not _TYPE_BYTES <= size <= self._max_frame_bytes:
            raise ProtocolError(f"a frame of {size} bytes")
        try:
            frame = self._reader.get()
        except (AnsqProtocolError, struct.error, ValueError) as exc:
            raise ProtocolError(f"{type(exc).__name__}: {exc}") from exc
        if frame is None:
            return None
        if isinstance(frame, NSQMessageSchema):
            return Message(frame.id, frame.attempts & 0xFFFF, frame.timestamp, frame.body)
        if isinstance(frame, NSQErrorSchema):
            return CommandRefused(frame.code, frame.body.decode(errors="replace"))
        return Reply(frame.body)


def body_problem(body: bytes, max_message_bytes: int) -> str | None:
    """Say why `body` cannot be a message, or return None if it can."""
    if not body:
        return "an NSQ message cannot be empty"
    if len(body) > max_message_bytes:
        return f"a message of {len(body)} bytes, over {max_message_bytes}"
    return None


def mpub_bytes(bodies: Sequence[bytes]) -> int:
    """Return what `bodies` add to the body of an MPUB."""
    return sum(map(len, bodies)) + BODY_BYTES * len(bodies)


def identify(features: Mapping[str, object]) -> bytes:
    """Encode IDENTIFY: who we are and what we ask for."""
    return _ENCODER.encode_command(NSQCommands.IDENTIFY, data=dict(features))


def auth(secret: str) -> bytes:
    """Encode AUTH; `secret` is not empty."""
    return _ENCODER.encode_command(NSQCommands.AUTH, data=secret)


def mpub(topic: str, bodies: Sequence[bytes]) -> bytes:
    """Encode MPUB: all of `bodies` or none; checked ones, at least one."""
    return _ENCODER.encode_command(NSQCommands.MPUB, topic, data=list(bodies))


def sub(topic: str, channel: str) -> bytes:
    """Encode SUB."""
    return _ENCODER.encode_command(NSQCommands.SUB, topic, channel)


def rdy(count: int) -> bytes:
    """Encode RDY: how many deliveries may be on loan on this connection."""
    return _ENCODER.encode_command(NSQCommands.RDY, count)


def fin(message_id: str) -> bytes:
    """Encode FIN; there is one for each message, and ansq takes ten times as long."""
    return f"FIN {message_id}\n".encode()


def req(message_id: str, delay_ms: int) -> bytes:
    """Encode REQ."""
    return _ENCODER.encode_command(NSQCommands.REQ, message_id, delay_ms)


def touch(message_id: str) -> bytes:
    """Encode TOUCH."""
    return _ENCODER.encode_command(NSQCommands.TOUCH, message_id)


CLS: Final = _ENCODER.encode_command(NSQCommands.CLS)
NOP: Final = _ENCODER.encode_command(NSQCommands.NOP)
