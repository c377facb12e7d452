"""What grpclib sees of a socket: a place to write to, without waiting.

Everything written within one tick of the scheduler leaves as one `send_all`, or one for each 64 KiB of it.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from runtime.rpc.limits import RpcLimits
from runtime.rpc.statistics import Counters
from runtime.rpc.waiting import Flag

# What has one deadline: how much of a `send_all` a peer has read until it was cancelled, nobody can say.
_SLICE_BYTES: Final = 64 << 10


class Writers(Protocol):
    """Who is told to wait while too much is on its way."""

    def pause_writing(self) -> None:
        """Let every sender wait."""

    def resume_writing(self) -> None:
        """Let them go on."""


def bound_silence(stream: trio.SocketStream, seconds: float) -> None:
    """Let the kernel end a connection whose peer has not acknowledged what we sent for so long."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


class Transport:
    """The outgoing half of one connection.  Owned by its `Connection.run`, and dies with it.

    `write` never waits: it is senders who stop at the high water mark.  What may be written past that
    (answers to pings and resets) is bounded by cutting off the peer that provokes it and does not read.
    """

    def __init__(
        self, stream: trio.abc.Stream, writers: Writers, limits: RpcLimits, counters: Counters
    ) -> None:
        self._stream = stream
        self._writers = writers
        self._limits = limits
        self._counters = counters
        self._backlog: list[bytes] = []
        self._backlog_bytes = 0
        self._paused = False
        self._closing = False
        self._wake = Flag()
        # A cancelled send_all leaves half a frame on the wire, and then nothing after it can be read.
        self._writing = trio.CancelScope(shield=True)

    def write(self, data: bytes) -> None:
        """Send `data` after what was written before; without effect on a closing transport."""
        if self._closing or not data:
            return
        self._backlog.append(data)
        self._backlog_bytes += len(data)
        if self._backlog_bytes > self._limits.high_water_bytes and not self._paused:
            self._paused = True
            self._writers.pause_writing()
        if self._backlog_bytes > self._limits.backlog_limit_bytes:
            self._counters.failures["peer does not read"] += 1
            self.abort()
        self._wake.set()

    def is_closing(self) -> bool:
        """Say whether nothing more can be written."""
        return self._closing

    def close(self) -> None:
        """End the connection once what has been written is on its way, or `flush_s` is over."""
        if not self._closing:
            self._closing = True
            self._writing.deadline = trio.current_time() + self._limits.flush_s
            self._wake.set()

    def abort(self) -> None:
        """End the connection now."""
        self._closing = True
        self._backlog.clear()
        self._writing.cancel()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `peername` or the `ssl_object` of the connection, as asyncio's transports do."""
        stream = self._stream
        if isinstance(stream, trio.SSLStream):
            if name == "ssl_object":
                return stream
            stream = stream.transport_stream
        if name == "peername" and isinstance(stream, trio.SocketStream):
            try:
                return stream.socket.getpeername()
            except OSError:
                return default
        return default

    async def run_writer(self, ended: Callable[[], None]) -> None:
        """Write until the transport closes or the socket breaks, then call `ended`.

        Shielded: whoever cancels the tasks around it closes the transport, which bounds this one.
        """
        with self._writing:
            try:
                await self._write_until_closed()
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
                self._counters.failures["lost while writing"] += 1
        if self._writing.cancelled_caught and self._backlog_bytes and not self._closing:
            self._counters.failures["stalled write"] += 1
        self._closing = True
        ended()

    async def _write_until_closed(self) -> None:
        while True:
            self._wake.clear()
            while self._backlog:
                data = b"".join(self._backlog)
                self._backlog.clear()
                if len(data) <= _SLICE_BYTES:
                    await self._send(data)
                else:
                    for start in range(0, len(data), _SLICE_BYTES):
                        await self._send(data[start : start + _SLICE_BYTES])
                self._allow(math.inf)
            if self._closing:
                return
            await self._wake.wait()

    async def _send(self, data: bytes) -> None:
        self._allow(self._limits.stall_s)
        await self._stream.send_all(data)
        self._counters.sent_bytes += len(data)
        self._backlog_bytes -= len(data)
        if self._paused and self._backlog_bytes < self._limits.low_water_bytes:
            self._paused = False
            self._writers.resume_writing()

    def _allow(self, seconds: float) -> None:
        if not self._closing:
            self._writing.deadline = trio.current_time() + seconds
