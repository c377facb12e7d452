"""The merged body of a push: length-prefixed records, one after the other.

    +----------------+-----------+----------------+-----------+
    | length, uint32 | record    | length, uint32 | record    |  ...
    | little-endian  | bytes     | little-endian  | bytes     |
    +----------------+-----------+----------------+-----------+

This is the only implementation; the golden bytes are in tests/vectors/batch.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

_LENGTH: Final = Struct("<I")
HEAD_BYTES: Final = _LENGTH.size


class BatchError(ValueError):
    """A merged body that ends inside a record."""


def pack(records: Iterable[bytes]) -> bytes:
    """Return the merged body of `records`."""
    return b"".join(part for record in records for part in (_LENGTH.pack(len(record)), record))


def unpack(body: bytes) -> Iterator[bytes]:
    """Iterate over the records of a merged body.

    Raises:
        BatchError: the body ends inside a length or a record; the records before it were given.
    """
    offset, end = 0, len(body)
    while offset < end:
        start = offset + HEAD_BYTES
        if start > end:
            raise BatchError(f"length cut off at byte {offset} of {end}")
        (size,) = _LENGTH.unpack_from(body, offset)
        offset = start + size
        if offset > end:
            raise BatchError(f"record of {size} bytes at byte {start} goes beyond {end}")
        yield body[start:offset]
