"""WebSocket frames (RFC 6455 section 5.2): the sizes and bytes of whole ones.  Pure.

     0               1               2               4            head
    +-+---+---------+-+-------------+---------------+------------+------------
    |F|RSV| opcode  |M| length 7    | 16 or 64 more | mask key 4 | payload ...
    +-+---+---------+-+-------------+---------------+------------+------------
     126 in `length 7`: 16 bits follow, 127: 64; the mask key is there if M is set

What is unusual (fragments, control frames, errors) is wsproto's matter, in connection.py.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BINARY: Final = 0x2
CLOSE: Final = 0x8
TEXT_WHOLE: Final = 0x81
BINARY_WHOLE: Final = 0x82
MASKED: Final = 0x80
SHORT: Final = 126
"""Payloads below this have their length in the second byte."""
_SHORT_HEADS: Final = tuple(bytes((BINARY_WHOLE, size)) for size in range(SHORT))


class Header(NamedTuple):
    """The first bytes of a frame.

    Attributes:
        first: FIN, reserved bits and opcode.
        is_masked: the mask key is part of the header.
        head_bytes: of the header itself, mask key included.
        payload_bytes: what follows it.
    """

    first: int
    is_masked: bool
    head_bytes: int
    payload_bytes: int

    @property
    def whole_bytes(self) -> int:
        """The size of the frame."""
        return self.head_bytes + self.payload_bytes

    @property
    def is_plain(self) -> bool:
        """Whether it is a whole data message with nothing odd about it, as a client has to send it."""
        if not self.is_masked or self.first not in (BINARY_WHOLE, TEXT_WHOLE):
            return False
        shortest = 6 if self.payload_bytes < SHORT else 8 if self.payload_bytes < 1 << 16 else 14
        return self.head_bytes == shortest


def parse_header(data: bytes, at: int) -> Header | None:
    """Read the header that begins at `at`; None as long as its end is missing."""
    have = len(data) - at
    if have < 2:
        return None
    second = data[at + 1]
    payload_bytes, head_bytes = second & 0x7F, 2
    if payload_bytes >= SHORT:
        head_bytes = 4 if payload_bytes == SHORT else 10
        if have < head_bytes:
            return None
        payload_bytes = int.from_bytes(data[at + 2 : at + head_bytes], "big")
    if second & MASKED:
        head_bytes += 4
        if have < head_bytes:
            return None
    return Header(data[at], bool(second & MASKED), head_bytes, payload_bytes)


def unmask(masked: bytes, key: bytes) -> bytes:
    """Return the payload (section 5.3): one XOR of big integers, faster than a loop at any size."""
    size = len(masked)
    keys = key * ((size + 3) >> 2)
    return (int.from_bytes(masked, "big") ^ int.from_bytes(keys[:size], "big")).to_bytes(size, "big")


def encode_frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """Return a final frame as a server sends it: not masked."""
    size = len(payload)
    if size < SHORT:
        return (_SHORT_HEADS[size] if opcode == BINARY else bytes((0x80 | opcode, size))) + payload
    if size < 1 << 16:
        return bytes((0x80 | opcode, SHORT)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload
