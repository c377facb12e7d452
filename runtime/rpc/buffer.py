"""The received bytes of one call, and what the peer is told about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from runtime.rpc.errors import RpcError, Status
from runtime.rpc.waiting import Flag

_PREFIX_BYTES: Final = 5
# Bytes that a reader takes before the peer is told: an update costs as much as a small message.
_ACK_STEP_BYTES: Final = 16 << 10


class Buffer:
    """The received bytes of one call, taken out as messages.

    ::

        compressed(1) | length(4, big-endian) | message(length) | compressed(1) | ...

    Bounded by the stream's window: the peer may send more only as messages are taken, or as the bytes of
    a message that somebody waits for come in.
    """

    __slots__ = ("_ack", "_acked_ahead", "_data", "_eof", "_taken", "_wake")

    def __init__(self, ack: Callable[[int], None]) -> None:
        self._ack = ack
        self._data = bytearray()
        self._eof = False
        self._taken = 0
        self._acked_ahead = 0
        self._wake = Flag()

    def add(self, data: bytes, ack_size: int) -> None:
        """Append `data`, which the peer counts as `ack_size` bytes (padding included)."""
        if ack_size > len(data):
            self._ack(ack_size - len(data))
        if data:
            self._data += data
            self._wake.set()

    def eof(self) -> None:
        """There is no more to come."""
        self._eof = True
        self._wake.set()

    def take_message(self, limit_bytes: int) -> bytes | None:
        """Return the next message if all of it is here.

        Raises:
            RpcError: it is too large, compressed, or cut off.
        """
        data = self._data
        if len(data) < _PREFIX_BYTES:
            if data and self._eof:
                raise RpcError(Status.INTERNAL, "the stream ended within a message")
            return None
        if data[0]:
            raise RpcError(Status.UNIMPLEMENTED, "compressed messages are not supported")
        size = int.from_bytes(data[1:_PREFIX_BYTES], "big")
        if size > limit_bytes:
            raise RpcError(
                Status.RESOURCE_EXHAUSTED, f"message of {size} bytes is over the limit of {limit_bytes}"
            )
        end = _PREFIX_BYTES + size
        if len(data) < end:
            if self._eof:
                raise RpcError(Status.INTERNAL, "the stream ended within a message")
            return None
        body = bytes(memoryview(data)[_PREFIX_BYTES:end])
        del data[:end]
        self._count_taken(end)
        return body

    async def next_message(self, limit_bytes: int) -> bytes | None:
        """Wait for the next message; None at the end.  Cancellation loses nothing.

        Raises:
            RpcError: as `take_message`.
        """
        while (body := self.take_message(limit_bytes)) is None and not self._eof:
            self._ack_all()
            self._wake.clear()
            await self._wake.wait()
        return body

    def unacked_size(self) -> int:
        """Give up on the rest: return how many bytes the peer has not been told about, and forget them."""
        owed = self._taken + len(self._data) - self._acked_ahead
        self._data.clear()
        self._taken = self._acked_ahead = 0
        return owed

    def _count_taken(self, size: int) -> None:
        ahead = min(size, self._acked_ahead)
        self._acked_ahead -= ahead
        self._taken += size - ahead
        if self._taken >= _ACK_STEP_BYTES:
            self._ack(self._taken)
            self._taken = 0

    def _ack_all(self) -> None:
        """Acknowledge what is here of a message that is not complete: it may be larger than the window."""
        if self._data or self._taken:
            owed = self._taken + len(self._data) - self._acked_ahead
            if owed >= _ACK_STEP_BYTES:
                self._taken = 0
                self._acked_ahead = len(self._data)
                self._ack(owed)
