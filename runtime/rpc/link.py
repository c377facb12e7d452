"""The tasks around one connection, the same at both ends.

::

    Link.run
     |- writer                       shielded; outlives the rest by at most flush_s
     `- calls nursery                ended by EOF, a broken socket, or whoever cancels
         |- read loop
         |- keepalive
         `- per incoming call, one task (server)

At the end the calls end first, then what they have said is written, then the socket is closed.
"""

from __future__ import annotations

import ssl
from typing import Final

import trio
from grpclib import protocol
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.exceptions import ProtocolError

from runtime.rpc.connection import Connection, Events, http2_config, open_http2
from runtime.rpc.limits import RpcLimits
from runtime.rpc.statistics import Counters
from runtime.rpc.transport import Transport

_READ_BYTES: Final = 64 << 10


class Link(protocol.H2Protocol):
    """One connection, from its first byte to its last.  Owned by the task that runs it.

    Args:
        handler: who takes incoming calls, or refuses them.
        limits: bounds and deadlines.
        counters: of the server or channel it belongs to.
        client_side: which end this is.
        keepalive_s: how long it may be quiet before it is pinged.

    Attributes:
        nursery: of the incoming calls.
        settled: set once the peer has sent its settings: only then are its limits known.
        proved: the peer has been there, so the next attempt to connect need not wait.
        too_many_pings: the peer wants to be pinged less often.
        why: what ended it, as far as is known.
    """

    connection: Connection
    processor: Events
    nursery: trio.Nursery
    scheme = "http"
    authority = ""

    def __init__(
        self,
        handler: protocol.AbstractHandler,
        limits: RpcLimits,
        counters: Counters,
        *,
        client_side: bool,
        keepalive_s: float,
    ) -> None:
        # Not the base's `config`: limits are ours.
        self.handler = handler
        self.h2_config = http2_config(client_side=client_side)
        self.settled = trio.Event()
        self.too_many_pings = False
        self.why = "the peer has closed the connection"
        self._limits = limits
        self._counters = counters
        self._client_side = client_side
        self._keepalive_s = keepalive_s
        self._began = self._last_received = trio.current_time()
        self._reading = trio.CancelScope()

    @property
    def proved(self) -> bool:
        """Whether the peer has begun to answer a call, or stayed longer than the longest pause.

        Not whether a call has ended: there are connections that carry a single one for days.
        """
        lived_s = trio.current_time() - self._began
        return self.connection.answered or lived_s > self._limits.backoff_cap_s

    @property
    def in_use(self) -> bool:
        """Whether calls are going on."""
        return bool(self.processor.streams)

    def is_closing(self) -> bool:
        """Say whether the connection is at its end."""
        return self._transport.is_closing()

    async def run(
        self, stream: trio.abc.Stream, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own `stream` until it ends; it is closed then.  Network errors are no errors of this task.

        Cancellation ends the calls (UNAVAILABLE to the peer), writes that out within `flush_s`, and closes.
        """
        self._transport = Transport(stream, self, self._limits, self._counters)
        self._counters.connections += 1
        self._counters.connected += 1
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(self._transport.run_writer, self._reading.cancel)
                try:
                    with self._reading:
                        await self._run_calls(stream, task_status)
                finally:
                    self.processor.close(self.why)
        finally:
            self._counters.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _run_calls(self, stream: trio.abc.Stream, task_status: trio.TaskStatus[None]) -> None:
        self._open()
        async with trio.open_nursery() as self.nursery:
            task_status.started()
            self.nursery.start_soon(self._keep_alive)
            try:
                await self._read(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
                self._counters.failures["lost while reading"] += 1
                self.why = f"the connection broke: {error.__cause__ or error}"
            self.nursery.cancel_scope.cancel()

    def _open(self) -> None:
        http2 = open_http2(self._limits, client_side=self._client_side)
        self.connection = Connection(http2, self._transport, self._limits)
        self.processor = Events(
            self.handler,
            self.connection,
            on_settings=self.settled.set,
            on_goaway=self._retire,
            on_released=self._stream_released,
            on_flood=self._refuse_flood,
        )
        self.connection.flush()

    async def _read(self, stream: trio.abc.Stream) -> None:
        while not self._transport.is_closing():
            data = await stream.receive_some(_READ_BYTES)
            if not data:
                return
            self._counters.received_bytes += len(data)
            self._last_received = trio.current_time()
            self.data_received(data)

    def data_received(self, data: bytes | bytearray) -> None:
        """Act on what the peer has sent; nonsense ends the connection, with a GOAWAY that says so."""
        try:
            events = self.connection.feed(bytes(data))
        except (ProtocolError, UnicodeDecodeError) as error:
            self._counters.failures["protocol error"] += 1
            self.why = f"protocol error: {error}"
            self.connection.flush()
            self.connection.close()
            return
        self.connection.flush()
        for event in events:
            self.processor.process(event)
        self.connection.flush()

    def drain(self) -> None:
        """Take no more calls from the peer, and end when the last one has ended."""
        self.connection.retire()
        if not self._client_side and not self.is_closing():
            self.connection.announce_end()
        self._stream_released()

    def abort(self, why: str) -> None:
        """End the connection now."""
        self.why = why
        self._counters.failures[why] += 1
        self.connection.retire()
        self._transport.abort()

    def _retire(self, event: ConnectionTerminated) -> None:
        """Act on GOAWAY: streams above its number were not looked at, the others will be answered."""
        text = event.additional_data or b""
        if event.error_code == ErrorCodes.ENHANCE_YOUR_CALM and text == b"too_many_pings":
            self.too_many_pings = True
        if self.connection.takes_calls:
            self._counters.failures["goaway"] += 1
        self.why = "the peer is going away"
        self.connection.retire()
        for number, stream in list(self.processor.streams.items()):
            if number % 2 == int(self._client_side) and number > (event.last_stream_id or 0):
                stream.__terminated__(self.why)
        self._stream_released()

    def _stream_released(self) -> None:
        if self.connection.takes_calls or self.in_use:
            return
        if self._client_side:
            self.connection.close()
        else:
            # The client closes on GOAWAY.  If we did, with input unread, a TCP reset could overtake what
            # the last call was answered: that is left to those who do not close.
            self._reading.deadline = min(self._reading.deadline, trio.current_time() + self._limits.flush_s)

    def _refuse_flood(self) -> None:
        if not self._transport.is_closing():
            self._counters.failures["too many resets"] += 1
            self.why = "too many resets"
            self.connection.announce_end(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_resets")
            self.connection.close()

    async def _keep_alive(self) -> None:
        """Find out about a peer that is gone without a word."""
        with trio.move_on_after(self._limits.connect_s):
            await self.settled.wait()
        if not self.settled.is_set():
            self.abort("no settings")
            return
        while True:
            quiet_s = trio.current_time() - self._last_received
            # A client lets an unused connection be: servers count pings, and the next call has a deadline.
            if quiet_s < self._keepalive_s or (self._client_side and not self.in_use):
                await trio.sleep(max(self._keepalive_s - quiet_s, self._keepalive_s / 4))
                continue
            asked_at = trio.current_time()
            self.connection.ping()
            with trio.move_on_after(self._limits.keepalive_timeout_s):
                await self.connection.pong.wait()
            if self._last_received < asked_at:
                self.abort("keepalive timeout")
                return
