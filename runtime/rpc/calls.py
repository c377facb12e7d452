"""A call from the caller's side, and what its stubs are made with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, TypeVar

import trio
from grpclib import client
from grpclib.const import Cardinality
from grpclib.encoding.base import GRPC_CONTENT_TYPE
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchChannelEvents
from grpclib.exceptions import GRPCError, ProtocolError
from grpclib.metadata import USER_AGENT, Deadline, decode_metadata, encode_metadata
from h2.errors import ErrorCodes
from multidict import MultiDict

from runtime.failures import leaves
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.limits import RpcLimits
from runtime.rpc.link import Link
from runtime.rpc.messages import decode_message, encode_message
from runtime.rpc.statistics import Counters
from runtime.rpc.streams import Stream
from runtime.rpc.waiting import CallScope

SendType = TypeVar("SendType")
RecvType = TypeVar("RecvType")

_CODEC: Final = ProtoCodec()
# The server of a call under a Trio deadline gives up a little later than the caller, who then sees the
# cancellation that was asked for and not now this, now that.
_SLACK_S: Final = 0.1
# grpc-timeout has at most eight digits.
_MOST_MILLISECONDS: Final = 99_999_999


def encode_timeout(seconds: float) -> str:
    """Return the `grpc-timeout` of so many seconds: rounded up, so that the server is never the stricter."""
    milliseconds = math.ceil(max(seconds, 0) * 1000)
    if milliseconds <= _MOST_MILLISECONDS:
        return f"{max(milliseconds, 1)}m"
    return f"{min(math.ceil(seconds), _MOST_MILLISECONDS)}S"


class Call(client.Stream[SendType, RecvType]):
    """One call.  Owned by the `async with` block that opens it; leaving the block ends the call.

    Leaving normally before the last message has been read, or before the own side has ended, gives the
    call up (RST_STREAM), as a cancellation or an exception does.  Every failure is an `RpcError`, raised
    by whatever the caller was waiting for.  One task may send while another receives.
    """

    _channel: CallSource
    _stream: Stream
    _wrapper: CallScope
    # What counts for this side; the peer is told `_deadline`.
    local_deadline: Deadline | None = None
    _read_to_end = False

    async def __aenter__(self) -> Call[SendType, RecvType]:
        self._wrapper = CallScope(self.local_deadline)
        self._channel.counters.in_flight += 1
        return self

    async def send_request(self, *, end: bool = False) -> None:
        """Open the call.  The first `send_message` does it where it has not been done.

        Raises:
            RpcError: UNAVAILABLE: no connection within the time a call may wait for one.
        """
        if self._send_request_done:
            raise ProtocolError("the request was sent already")
        if end and not self._cardinality.client_streaming:
            raise ProtocolError("a unary request needs a message")
        with self._wrapper:
            await trio.lowlevel.checkpoint_if_cancelled()
            release = None
            while release is None:
                link = await self._channel.__connect__()
                self._stream = link.connection.create_stream(wrapper=self._wrapper)
                self._stream.deadline = self._deadline
                headers = self._request_headers(link)
                release = await self._stream.open(headers, link.processor, end_stream=end)
            self._release_stream = release
            self._send_request_done = True
            self._end_done = end

    def _request_headers(self, link: Link) -> list[tuple[str, str]]:
        headers = [
            (":method", "POST"),
            (":scheme", link.scheme),
            (":path", self._method_name),
            (":authority", link.authority),
            ("te", "trailers"),
            ("content-type", GRPC_CONTENT_TYPE),
            ("user-agent", USER_AGENT),
        ]
        if self._deadline is not None:
            headers.append(("grpc-timeout", encode_timeout(self._deadline.time_remaining())))
        headers.extend(encode_metadata(self._metadata))
        return headers

    async def send_message(self, message: SendType, *, end: bool = False) -> None:
        """Send `message`, waiting where the peer or the network is slow.

        Cancelled half way through a large message, it gives the call up.

        Raises:
            RpcError: the call has failed; with its status, where the server has said it already.
        """
        if not self._send_request_done:
            await self.send_request()
        streaming = self._cardinality.client_streaming
        if self._end_done or (self._send_message_done and not streaming):
            raise ProtocolError("this side of the call has ended")
        data = encode_message(self._codec, message, self._send_type)
        await self._stream.take_turn()
        try:
            self._wrapper.check()
            # Most messages fit, and a scope costs as much as sending one.
            if not self._stream.send_nowait(data, end_stream=end or not streaming):
                with self._wrapper:
                    await self._stream.send_data(data, end_stream=end or not streaming)
        except RpcError:
            if self._stream.has_status:
                self._raise_verdict()
            raise
        self._send_message_done = True
        self._end_done = end

    async def recv_message(self) -> RecvType | None:
        """Wait for the next message; None after the last one of a call that ended well.

        Cancellation loses nothing.

        Raises:
            RpcError: the call has failed.
        """
        if not self._recv_initial_metadata_done:
            await self.recv_initial_metadata()
        await self._stream.take_turn()
        self._wrapper.check()
        body = self._stream.take_message()
        if body is None:
            with self._wrapper:
                body = await self._stream.next_message()
        if body is None:
            self._read_to_end = True
            self._raise_verdict()
            return None
        self._messages_received += 1
        return decode_message(self._codec, body, self._recv_type)

    async def end(self) -> None:
        """Say that no more messages will be sent.

        Raises:
            RpcError: the call has failed.
        """
        if not self._send_request_done:
            await self.send_request(end=True)
        elif self._end_done or not self._cardinality.client_streaming:
            return
        else:
            with self._wrapper:
                await self._stream.end()
        self._end_done = True

    async def cancel(self) -> None:
        """Give the call up: the server's handler is cancelled, and so are our own waits."""
        if self._send_request_done:
            self._stream.reset_nowait(ErrorCodes.CANCEL)
        self._cancel_done = True
        self._wrapper.cancel(RpcError(Status.CANCELLED, "given up by the caller"))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcome = raised
        try:
            if raised is None and self._is_answered_to_the_end():
                await self._finish()
        except BaseException as error:
            outcome = error
            raise
        finally:
            self._release(outcome)

    def _is_answered_to_the_end(self) -> bool:
        """Whether only the status is left to wait for; else leaving the block gives the call up."""
        if not self._send_request_done or self._cancel_done:
            return False
        asked = self._end_done or (self._send_message_done and not self._cardinality.client_streaming)
        return asked and (self._read_to_end or not self._cardinality.server_streaming)

    async def _finish(self) -> None:
        if not self._recv_initial_metadata_done:
            await self.recv_initial_metadata()
        if not self._recv_trailing_metadata_done:
            await self.recv_trailing_metadata()
        if not self._cardinality.server_streaming and not self._messages_received:
            raise RpcError(Status.INTERNAL, "the server has sent no message")

    def _raise_verdict(self) -> None:
        """Raise what the server has said at the end of its messages, if it is not OK."""
        headers = self._stream.trailers if self._stream.trailers is not None else self._stream.headers
        status, text, _ = self._process_grpc_status(dict(headers or ()))
        self.trailing_metadata = decode_metadata(headers or ())
        self._recv_trailing_metadata_done = True
        if status is not Status.OK:
            raise RpcError(status, text or "")

    def _release(self, outcome: BaseException | None) -> None:
        if self._send_request_done:
            if self._stream.closable:
                self._stream.reset_nowait(ErrorCodes.CANCEL)
            self._release_stream()
        counters = self._channel.counters
        counters.in_flight -= 1
        counters.calls[self._method_name, _status_name(outcome)] += 1


def _status_name(outcome: BaseException | None) -> str:
    if outcome is None:
        return Status.OK.name
    for error in leaves(outcome):
        if isinstance(error, GRPCError):
            return error.status.name
    return Status.CANCELLED.name


class CallSource(client.Channel):
    """What generated stubs are made with: gives each call the connection that it goes over.

    Attributes:
        counters: what became of its calls.
    """

    def __init__(self, limits: RpcLimits) -> None:
        # Not the base's, which looks for an asyncio loop.
        self.counters = Counters()
        self._limits = limits
        self.__dispatch__ = _DispatchChannelEvents()

    def __del__(self) -> None:
        """Leave nothing to the collector: connections belong to nurseries."""

    async def __connect__(self) -> Link:
        """Return the connection for the next call, after a bounded wait.

        Raises:
            RpcError: UNAVAILABLE.
        """
        raise NotImplementedError

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[SendType],
        reply_type: type[RecvType],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        metadata: Mapping[str, str | bytes] | Any = None,
    ) -> Call[SendType, RecvType]:
        """Return a call that is yet to be opened; this is what stubs do.

        The peer is told the nearer of `timeout` and Trio's deadline.  A unary call without either gets
        the limits' `call_s`.
        """
        now = trio.current_time()
        effective_s = trio.current_effective_deadline() - now
        unbounded = timeout is None and deadline is None and effective_s == math.inf
        if unbounded and cardinality is Cardinality.UNARY_UNARY:
            timeout = self._limits.call_s
        if timeout is not None:
            stated = Deadline.from_timeout(timeout)
            deadline = stated if deadline is None else min(deadline, stated)
        told = deadline
        if effective_s != math.inf:
            surrounding = Deadline.from_timeout(max(0.0, effective_s) + _SLACK_S)
            told = surrounding if deadline is None else min(deadline, surrounding)
        call = Call(
            self,
            name,
            MultiDict(metadata or ()),  # type: ignore[arg-type]  # grpclib's NewType
            cardinality,
            request_type,
            reply_type,
            codec=_CODEC,
            status_details_codec=None,
            dispatch=self.__dispatch__,
            deadline=told,
        )
        call.local_deadline = deadline
        return call
