"""One call's half of a connection: its messages in, its frames out, its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from grpclib import protocol
from grpclib.metadata import Deadline
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError, TooManyStreamsError

from runtime.rpc.buffer import Buffer
from runtime.rpc.errors import RpcError, Status, reset_error, unavailable
from runtime.rpc.waiting import CallScope, Flag

if TYPE_CHECKING:
    from runtime.rpc.connection import Connection

# One frame at a time per call, so that a large message does not hold up its neighbours.
_CHUNK_BYTES: Final = 64 << 10
# Sends into an open buffer, and messages that are here already, do not wait: now and then one has to.
_TURN: Final = 32

Headers = list[tuple[str, str]]


class Stream(protocol.Stream):
    """The HTTP/2 stream of one call, at either end.  Owned by the call, and released with it."""

    connection: Connection
    buffer: Buffer  # type: ignore[assignment]  # asyncio.Queue inside
    wrapper: CallScope | None
    # The call's deadline as the peer was told.
    deadline: Deadline | None = None

    def __init__(
        self,
        connection: Connection,
        h2_connection: H2Connection,
        transport: Any,
        *,
        stream_id: int | None = None,
        wrapper: Any = None,
    ) -> None:
        # Not the base's, which makes asyncio events.
        self.connection = connection
        self._h2_connection = h2_connection
        self._transport = transport
        self.wrapper = wrapper
        self.window_updated = Flag()  # type: ignore[assignment]
        self.headers: Headers | None = None
        self.headers_received = Flag()  # type: ignore[assignment]
        self.trailers: Headers | None = None
        self.trailers_received = Flag()  # type: ignore[assignment]
        self._turn = 0
        if stream_id is not None:
            self.init_stream(stream_id, connection)

    def init_stream(self, stream_id: int, connection: Any) -> None:
        """Begin: the stream has a number."""
        self.id = stream_id
        self.buffer = Buffer(partial(connection.ack, stream_id))
        connection.streams_started += 1
        self.created = connection.last_stream_created = time.monotonic()

    @property
    def has_status(self) -> bool:
        """Whether the server has said how the call went."""
        return self.trailers is not None or (
            self.headers is not None and any(name == "grpc-status" for name, _ in self.headers)
        )

    async def next_message(self) -> bytes | None:
        """Wait for the next message; None at the end.

        Raises:
            RpcError: the message is too large or malformed.
        """
        return await self.buffer.next_message(self.connection.limits.receive_limit_bytes)

    def take_message(self) -> bytes | None:
        """Return the next message if all of it is here.

        Raises:
            RpcError: it is too large or malformed.
        """
        return self.buffer.take_message(self.connection.limits.receive_limit_bytes)

    def send_nowait(self, data: bytes, *, end_stream: bool) -> bool:
        """Send `data` if all of it can go at once; False: nothing was sent.

        Raises:
            RpcError: the stream has ended.
        """
        most = min(_CHUNK_BYTES, self._h2_connection.max_outbound_frame_size)
        if len(data) > most or not self.connection.write_ready.is_set() or self._window() < len(data):
            return False
        self._send_frame(data, end_stream=end_stream)
        return True

    async def open(
        self, headers: Headers, events: protocol.EventsProcessor, *, end_stream: bool
    ) -> Callable[[], None] | None:
        """Open the stream; return what releases it.  Waits while the peer has as many calls as it takes.

        None: the connection takes no calls any more; nothing was sent, another may be tried.
        """
        connection = self.connection
        while True:
            await self._wait_writable()
            if not connection.takes_calls:
                await trio.lowlevel.checkpoint()
                return None
            # No await from here on: the number is taken by sending it.
            try:
                number = self._h2_connection.get_next_available_stream_id()
                self._h2_connection.send_headers(number, headers, end_stream=end_stream)
            except TooManyStreamsError:
                connection.stream_close_waiter.clear()
                await connection.stream_close_waiter.wait()
                continue
            except ProtocolError:
                # Its numbers are used up, after a billion calls, or it has just ended.
                connection.retire()
                continue
            self.init_stream(number, connection)
            release = events.register(self)
            connection.flush()
            return release

    async def send_headers(
        self,
        headers: Headers,
        end_stream: bool = False,  # noqa: FBT001, FBT002  grpclib's signature
    ) -> None:
        """Send headers or trailers.

        Raises:
            RpcError: the stream has ended.
        """
        await self._wait_writable()
        self.send_headers_nowait(headers, end_stream=end_stream)

    def send_headers_nowait(self, headers: Headers, *, end_stream: bool = False) -> None:
        """Send headers or trailers, past the water marks.

        Raises:
            RpcError: the stream has ended.
        """
        # h2 would open a stream anew that it has forgotten.
        if self.id not in self._h2_connection.streams:
            raise self._ended()
        try:
            self._h2_connection.send_headers(self.id, headers, end_stream=end_stream)
        except ProtocolError as error:
            raise self._ended() from error
        self.connection.flush()

    async def send_data(
        self,
        data: bytes,
        end_stream: bool = False,  # noqa: FBT001, FBT002  grpclib's signature
    ) -> None:
        """Send `data` as far as windows and water marks allow, and wait for the rest.

        A send that is cancelled half way resets the stream: its reader could make nothing of what follows.

        Raises:
            RpcError: the stream has ended.
        """
        sent, size = 0, len(data)
        try:
            while True:
                await self._wait_writable()
                room = self._window() if size else 1
                if room <= 0:
                    self.window_updated.clear()
                    await self.window_updated.wait()
                    continue
                chunk = data[
                    sent : sent + min(room, _CHUNK_BYTES, self._h2_connection.max_outbound_frame_size)
                ]
                last = sent + len(chunk) == size
                self._send_frame(chunk, end_stream=last and end_stream)
                sent += len(chunk)
                if last:
                    return
        except trio.Cancelled:
            if sent and self.closable:
                self.reset_nowait(ErrorCodes.CANCEL)
                if self.wrapper is not None:
                    self.wrapper.cancel(RpcError(Status.CANCELLED, "a message was cut off"))
            raise

    async def end(self) -> None:
        """Say that nothing more will be sent.

        Raises:
            RpcError: the stream has ended.
        """
        await self.send_data(b"", end_stream=True)

    def reset_nowait(self, error_code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Tell the peer that the call is over; without effect if it is over already."""
        try:
            self._h2_connection.reset_stream(self.id or 0, error_code=error_code)
        except ProtocolError:
            return
        self.connection.flush()

    def end_by_reset(self, code: ErrorCodes | int | None) -> None:
        """Take note that the peer has reset the stream."""
        late = self.deadline is not None and self.deadline.time_remaining() <= 0
        self._end(reset_error(code, late=late))

    def __terminated__(self, reason: str) -> None:
        self._end(unavailable(reason))

    def _end(self, error: RpcError) -> None:
        if self.id is not None and self.has_status:
            # The server has said all; what is received can still be read, and senders find out now.
            self.buffer.eof()
            self.trailers_received.set()
            self.window_updated.set()
        elif self.wrapper is not None:
            self.wrapper.cancel(error)

    def _ended(self) -> RpcError:
        if self.wrapper is not None and self.wrapper.error is not None:
            return self.wrapper.error.again()
        return unavailable("the peer has ended the call")

    def _window(self) -> int:
        # h2 keeps some streams for a while after their end, and would name their windows.
        if not self.closable:
            raise self._ended()
        return self._h2_connection.local_flow_control_window(self.id or 0)

    def _send_frame(self, data: bytes, *, end_stream: bool) -> None:
        try:
            self._h2_connection.send_data(self.id or 0, data, end_stream=end_stream)
        except ProtocolError as error:
            raise self._ended() from error
        self.connection.flush()
        self.data_sent += len(data)
        self.connection.data_sent += len(data)

    async def _wait_writable(self) -> None:
        ready = self.connection.write_ready
        # Whoever was woken first may have filled the buffer again.
        while not ready.is_set():
            await ready.wait()

    async def take_turn(self) -> None:
        """Let others run now and then; what is here or fits does not wait by itself."""
        self._turn += 1
        if self._turn % _TURN == 0:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
