"""WebSocket bytes as a client sends them, right and wrong, and a reader for what a server answers."""

from __future__ import annotations

from collections.abc import Iterator

KEY = b"\x37\xfa\x21\x3d"
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
UPGRADE = (
    b"GET /room HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ACCEPTED = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

Frame = tuple[int, bytes]


def frame(
    payload: bytes = b"",
    first: int = BINARY,
    *,
    key: bytes | None = KEY,
    length: int | None = None,
    form: int = 0,
) -> bytes:
    """Return one frame.

    Args:
        payload: not masked yet.
        first: FIN, reserved bits and opcode.
        key: None sends it unmasked.
        length: what the header says, whatever the payload is.
        form: 126 or 127 takes that form of the length, even where a shorter one would do.
    """
    size = len(payload) if length is None else length
    form = form or (size if size < 126 else 126 if size < 1 << 16 else 127)
    head = bytes((first, form | (0x80 if key is not None else 0)))
    if form == 126:
        head += size.to_bytes(2, "big")
    elif form == 127:
        head += size.to_bytes(8, "big")
    if key is None:
        return head + payload
    keys = key * (len(payload) // 4 + 1)
    return head + key + bytes(byte ^ mask for byte, mask in zip(payload, keys, strict=False))


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(code.to_bytes(2, "big") + reason, CLOSE)


def fragments(payload: bytes, size: int, first: int = BINARY) -> Iterator[bytes]:
    """Yield `payload` as frames of `size` bytes."""
    for at in range(0, len(payload), size):
        opcode = first & 0x0F if at == 0 else 0
        is_last = at + size >= len(payload)
        yield frame(payload[at : at + size], opcode | (0x80 if is_last else 0))


def parse_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the whole frames of a server, and what is left; a masked one fails."""
    found: list[Frame] = []
    while len(data) >= 2:
        size, at = data[1], 2
        assert size < 0x80, "a server must not mask"
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at], "big")
        if len(data) < at + size:
            break
        found.append((data[0], data[at : at + size]))
        data = data[at + size :]
    return found, data


def close_code(closing: Frame) -> int:
    """Return the code of a close frame, 0 for none."""
    assert closing[0] == CLOSE, closing
    return int.from_bytes(closing[1][:2], "big")


def cut_bytewise(data: bytes) -> Iterator[bytes]:
    """Cut into single bytes; of much data only the ends, in between it is 997 at a time or more."""
    edge = len(data) if len(data) <= 1000 else 40
    part = 997 if len(data) < 100_000 else 9973
    yield from (data[at : at + 1] for at in range(edge))
    inner = data[edge : len(data) - edge]
    yield from (inner[at : at + part] for at in range(0, len(inner), part))
    if edge < len(data):
        yield from (data[at : at + 1] for at in range(len(data) - edge, len(data)))
