"""Unusual frames, through wsproto: fragments, control frames, and whatever is wrong.

The object lives only until the message or control frame in progress is over, so that a connection at
rest costs nothing for it.  It is fed exactly one frame after the other: that a frame is complete and no
message is in progress means that nothing is buffered in it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from conn_server.frames import Header
from schema.closing import CloseCode

_JOIN_PARTS: Final = 256  # tiny fragments must not cost an object each


class Violation(Exception):
    """The peer broke the protocol or a limit; the connection is closed with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Outcome(NamedTuple):
    """What a piece of a frame led to.

    Attributes:
        message: a complete message; text is given as its UTF-8 bytes.
        answers: frames to send: pongs, or the answer to a close frame.
        close_code: the peer's close frame has come, with this code (1005: none).
    """

    message: bytes | None
    answers: bytes
    close_code: int | None


class Unusual:
    """One connection's wsproto, for as long as it is needed.

    Args:
        max_frame_bytes: of one frame's payload.
        max_message_bytes: of all fragments of a message together.
    """

    __slots__ = (
        "_max_frame_bytes",
        "_max_message_bytes",
        "_parts",
        "_protocol",
        "_size_bytes",
        "missing_bytes",
    )

    def __init__(self, max_frame_bytes: int, max_message_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._max_message_bytes = max_message_bytes
        self._protocol = Connection(ConnectionType.SERVER)
        self._parts: list[bytes] | None = None  # of the message in progress
        self._size_bytes = 0
        self.missing_bytes = 0  # of the frame in progress

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is in progress, so that this object can be dropped."""
        return not self.missing_bytes and self._parts is None

    def begin(self, header: Header, head: bytes) -> None:
        """Begin a frame; `feed` gets it from its first byte on.

        Raises:
            Violation: its size is over the limit, if wsproto sees nothing worse in the header.
        """
        self.missing_bytes = header.whole_bytes
        if header.payload_bytes > self._max_frame_bytes:
            self._protocol.receive_data(head)
            self._handle_events()
            raise Violation(CloseCode.TOO_BIG)

    def feed(self, piece: bytes) -> Outcome:
        """Take a piece of the frame in progress, at most `missing_bytes` long.

        Raises:
            Violation: the frame is wrong, or the message too big.
        """
        self.missing_bytes -= len(piece)
        self._protocol.receive_data(piece)
        return self._handle_events()

    def _handle_events(self) -> Outcome:
        message, answers, close_code = None, b"", None
        for event in self._protocol.events():
            if isinstance(event, BytesMessage):
                message = self._add(bytes(event.data), is_last=event.message_finished)
            elif isinstance(event, TextMessage):
                message = self._add(event.data.encode(), is_last=event.message_finished)
            elif isinstance(event, Ping):
                answers += self._protocol.send(event.response())
            elif isinstance(event, CloseConnection):
                if self._protocol.state is not ConnectionState.REMOTE_CLOSING:  # wsproto's own verdict
                    raise Violation(event.code)
                close_code = event.code
                answers += self._protocol.send(event.response())
        return Outcome(message, answers, close_code)

    def _add(self, part: bytes, *, is_last: bool) -> bytes | None:
        parts = self._parts or []
        self._size_bytes += len(part)
        if self._size_bytes > self._max_message_bytes:
            raise Violation(CloseCode.TOO_BIG)
        parts.append(part)
        if is_last:
            self._parts, self._size_bytes = None, 0
            return b"".join(parts)
        self._parts = [b"".join(parts)] if len(parts) > _JOIN_PARTS else parts
        return None
