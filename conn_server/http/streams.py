"""A socket that the poller has begun to read, as a Trio stream."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import trio

from conn_server.tls import end_writing

_CHUNK_BYTES: Final = 16 * 1024
"""The largest TLS record: nothing that was decrypted stays behind in a socket that goes back to the poller,
which would not be told of it."""

_T = TypeVar("_T")


class HandedStream(trio.abc.HalfCloseableStream):
    """Replays what was read already, then goes on with the socket, which may be a TLS one.

    The socket stays its giver's, who closes it: `aclose` only ends what is waiting on it.

    Args:
        sock: non-blocking; of a TLS socket the handshake is done.
        received: what was read from it already.

    Attributes:
        has_sent_end: `send_eof` was called.
        has_received_end: there is nothing more to come.
    """

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        self.socket = sock
        self.has_sent_end = False
        self.has_received_end = False
        self._received = received
        self._is_returning = False
        self._is_closed = False

    @property
    def has_unread(self) -> bool:
        """Whether something was read from the socket that `receive_some` has not returned yet."""
        return self._is_returning or bool(self._received)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what there is, at most 16 KiB; b"" at the end.  Cancelling loses nothing.

        Raises:
            trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: `aclose` was called.
        """
        if self._received and not self._is_closed:
            await trio.lowlevel.checkpoint()
            data, self._received = self._received[:_CHUNK_BYTES], self._received[_CHUNK_BYTES:]
            return data
        try:
            data = await self._retry(self._read, trio.lowlevel.wait_readable)
        except trio.BrokenResourceError:
            self.has_received_end = True
            raise
        finally:
            self._is_returning = False
        self.has_received_end = not data
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; when cancelled, nobody knows how much of it.

        Raises:
            trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: `aclose` was called.
        """
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                send = partial(self.socket.send, view[sent:])
                sent += await self._retry(send, trio.lowlevel.wait_writable)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """Say that nothing more will come, in TLS as well; what was sent before arrives."""
        await trio.lowlevel.checkpoint()
        if self.has_sent_end or self._is_closed:
            return
        self.has_sent_end = True
        with suppress(OSError):
            end_writing(self.socket)

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            trio.lowlevel.notify_closing(self.socket)
        await trio.lowlevel.checkpoint()

    def _read(self) -> bytes:
        data = self.socket.recv(_CHUNK_BYTES)
        self._is_returning = bool(data)  # until the checkpoint that follows is over
        return data

    async def _retry(self, call: Callable[[], _T], wait: Callable[[socket.socket], Awaitable[None]]) -> _T:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._is_closed:
            try:
                result = call()
            except (BlockingIOError, InterruptedError):
                await wait(self.socket)
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self.socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self.socket)
            except (OSError, ValueError) as exc:  # ValueError: a TLS socket after shutdown()
                raise trio.BrokenResourceError(str(exc)) from exc
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return result
        raise trio.ClosedResourceError
