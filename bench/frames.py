"""The client's end of a WebSocket (RFC 6455): the upgrade, masked frames out, plain frames in.  Pure.

Only what a load needs: whole messages go out in one frame, and there are no extensions.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1
from typing import Final

BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
CONTINUATION: Final = 0x0
MAX_HEAD_BYTES: Final = 16 * 1024

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FINAL: Final = 0x80
_SHORT: Final = 126
_LONG: Final = 127


class Refused(Exception):
    """The answer to an upgrade is not the one hoped for.

    Attributes:
        status: the HTTP status, 0 when there is no understandable one.
        retry_after_s: what the answer asks to wait, None if it does not say.
    """

    def __init__(self, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One way to ask for a WebSocket, and the only answer that fits it; many connections may share it."""

    request: bytes
    accept: bytes

    @classmethod
    def to(cls, host: str, target: str, nonce: bytes) -> Upgrade:
        """Make a request for `target` of `host`; `nonce` has 16 bytes."""
        key = b64encode(nonce)
        head = (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        # Not a secret: RFC 6455 section 4.2.2 asks for SHA-1.
        digest = sha1(key + _GUID, usedforsecurity=False).digest()
        return cls(head.encode(), b64encode(digest))

    def answered(self, data: bytes) -> bytes | None:
        """Return what follows the head of the answer, None while it is incomplete.

        Raises:
            Refused: it is another answer.
        """
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            if len(data) > MAX_HEAD_BYTES:
                raise Refused(0)
            return None
        status, headers = read_head(head)
        if status != 101 or headers.get(b"sec-websocket-accept") != self.accept:
            raise Refused(status, retry_after_of(headers))
        return rest


def read_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Return status and headers (names in lower case) of an HTTP answer's head; status 0 if it is none."""
    first, *lines = head.split(b"\r\n")
    parts = first.split(b" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    is_http = parts[0].startswith(b"HTTP/1.") and len(parts) > 1 and parts[1].isdigit()
    return (int(parts[1]) if is_http else 0), headers


def retry_after_of(headers: dict[bytes, bytes]) -> float | None:
    """Return the seconds of a Retry-After header, None without one (or with a date)."""
    value = headers.get(b"retry-after", b"")
    return float(value) if value.isdigit() else None


def masked(payload: bytes, key: bytes, opcode: int = BINARY) -> bytes:
    """Return a final frame with `payload`, masked with the 4 bytes of `key`."""
    size = len(payload)
    if size < _SHORT:
        head = bytes((_FINAL | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((_FINAL | opcode, 0x80 | _SHORT)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, 0x80 | _LONG)) + size.to_bytes(8, "big")
    keys = (key * (size // 4 + 1))[:size]
    body = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
    return head + key + body.to_bytes(size, "big")


@dataclass(frozen=True, slots=True)
class Frame:
    """A server's frame."""

    is_final: bool
    opcode: int
    payload: bytes


def split(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the whole frames at the beginning of `data`, and the rest."""
    frames = []
    end = 0
    for frame, end in _whole_frames(data):  # noqa: B007  the last end is where the rest begins
        frames.append(frame)
    return frames, data[end:] if end else data


def _whole_frames(data: bytes) -> Iterator[tuple[Frame, int]]:
    position = 0
    while len(data) - position >= 2:
        first, size = data[position], data[position + 1]
        start = position + 2
        if size == _SHORT:
            start += 2
            size = int.from_bytes(data[start - 2 : start], "big")
        elif size == _LONG:
            start += 8
            size = int.from_bytes(data[start - 8 : start], "big")
        position = start + size
        if position > len(data):
            return
        yield Frame(bool(first & _FINAL), first & 0x0F, data[start:position]), position
