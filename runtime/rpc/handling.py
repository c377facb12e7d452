"""A call from the server's side: headers checked, handler run, outcome told.

Whatever a handler raises becomes the status of its call and never leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar, cast

import structlog
import trio
from grpclib import const, protocol, server
from grpclib.encoding.base import GRPC_CONTENT_TYPE
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchServerEvents
from grpclib.exceptions import ProtocolError
from grpclib.metadata import Deadline, decode_metadata, encode_grpc_message
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from structlog.typing import FilteringBoundLogger

from runtime.rpc.connection import Connection
from runtime.rpc.errors import RpcError, Status, deadline_exceeded, status_within
from runtime.rpc.link import Link
from runtime.rpc.messages import decode_message, encode_message
from runtime.rpc.statistics import Counters
from runtime.rpc.streams import Headers, Stream
from runtime.rpc.waiting import CallScope

_log: Final[FilteringBoundLogger] = structlog.get_logger("rpc")
_CODEC: Final = ProtoCodec()
_DISPATCH: Final = _DispatchServerEvents()
# Under one name, or a peer could fill the counters with names of its own.
UNKNOWN_METHOD: Final = "(unknown)"

SendType = TypeVar("SendType")
RecvType = TypeVar("RecvType")
Methods = Mapping[str, const.Handler]


class ServerCall(server.Stream[RecvType, SendType]):
    """What a handler gets.  Owned by the task of the call.

    A call that goes on for long waits for `stopping` beside its messages, and ends by itself when the
    server drains; otherwise it is ended with UNAVAILABLE at the end of the grace.

    Attributes:
        stopping: set when the server begins to drain.
        outcome: what the caller was told at the end; None as long as nothing was.
    """

    _stream: Stream
    stopping: trio.Event
    outcome: Status | None = None

    async def recv_message(self) -> RecvType | None:
        """Wait for the next message; None once the caller has ended its side.  Cancellation loses nothing.

        Raises:
            RpcError: the message is too large or malformed, or it is the only one and has not come within
                `call_s` where the caller states no deadline; left alone, it becomes the call's status.
        """
        await self._stream.take_turn()
        body = self._stream.take_message()
        if body is None:
            body = await self._next_message()
        if body is None:
            return None
        self._messages_received += 1
        return decode_message(self._codec, body, self._recv_type)

    async def _next_message(self) -> bytes | None:
        if self.deadline is not None or self._cardinality.client_streaming:
            return await self._stream.next_message()
        # The caller has said that it asks something, and may never say what.
        with trio.move_on_after(self._stream.connection.limits.call_s):
            return await self._stream.next_message()
        raise deadline_exceeded()

    async def send_message(self, message: SendType) -> None:
        """Send `message`, waiting where the caller or the network is slow.

        Raises:
            RpcError: the caller has gone.
        """
        if not self._send_initial_metadata_done:
            await self.send_initial_metadata()
        if self._send_message_done and not self._cardinality.server_streaming:
            raise ProtocolError("a unary call is answered once")
        data = encode_message(self._codec, message, self._send_type)
        await self._stream.take_turn()
        if not self._stream.send_nowait(data, end_stream=False):
            await self._stream.send_data(data)
        self._send_message_done = True
        self._messages_sent += 1

    async def send_trailing_metadata(self, *, status: Status = Status.OK, **details: Any) -> None:
        """Tell the caller how the call went."""
        await super().send_trailing_metadata(status=status, **details)
        self.outcome = status
        if self._stream.closable:
            # Whatever the caller still wants to say, nobody listens any more.
            self._stream.reset_nowait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        # grpclib's would swallow a cancellation.
        if raised is not None and not isinstance(raised, Exception):
            return None
        return await super().__aexit__(kind, raised, traceback)

    def tell_unavailable_nowait(self) -> None:
        """Tell the caller that the server goes away, where that can still be said."""
        if self._send_trailing_metadata_done or not self._stream.closable:
            return
        status = Status.UNAVAILABLE
        headers = [("grpc-status", str(status.value)), ("grpc-message", "the server is going away")]
        if not self._send_initial_metadata_done:
            headers[:0] = [(":status", "200"), ("content-type", self._content_type)]
        self._stream.send_headers_nowait(headers, end_stream=True)
        self._stream.reset_nowait()
        self._send_trailing_metadata_done = True
        self.outcome = status


def stopping_of(stream: server.Stream[Any, Any]) -> trio.Event:
    """Return the event that tells a long call of `serve_rpc` that its server drains."""
    return cast("ServerCall[Any, Any]", stream).stopping


class CallHandler(protocol.AbstractHandler):
    """The calls that come in over one connection.  Owned by the connection's task.

    Attributes:
        link: the connection; set before the first call.
    """

    link: Link

    def __init__(self, methods: Methods, counters: Counters, stopping: trio.Event) -> None:
        self._methods = methods
        self._counters = counters
        self._stopping = stopping
        self._scopes: dict[protocol.Stream, trio.CancelScope] = {}

    def accept(self, stream: protocol.Stream, headers: Headers, release_stream: Callable[[], Any]) -> None:
        """Begin a call in a task of its own, or refuse it while the connection drains."""
        connection = cast("Connection", stream.connection)
        if not connection.takes_calls:
            self._counters.failures["call while draining"] += 1
            stream.reset_nowait(ErrorCodes.REFUSED_STREAM)
            release_stream()
            return
        scope = self._scopes[stream] = trio.CancelScope()
        method = dict(headers).get(":path", "")
        self.link.nursery.start_soon(
            self._run, scope, cast("Stream", stream), headers, release_stream, name=f"rpc {method}"
        )

    def cancel(self, stream: protocol.Stream) -> None:
        """End the handler of a call that its caller has given up."""
        scope = self._scopes.get(stream)
        if scope is not None:
            scope.cancel()

    def close(self) -> None:
        """End all handlers."""
        for scope in self._scopes.values():
            scope.cancel()

    async def _run(
        self, scope: trio.CancelScope, stream: Stream, headers: Headers, release: Callable[[], Any]
    ) -> None:
        fields = dict(headers)
        name = fields.get(":path", "")
        method = self._methods.get(name)
        self._counters.in_flight += 1
        status = Status.CANCELLED
        try:
            with scope:
                refusal = _refusal(fields, method)
                if refusal is not None or method is None:
                    status = await _refuse(stream, *(refusal or (200, Status.UNIMPLEMENTED, "")))
                else:
                    status = await self._answer(stream, name, method, headers)
        except (H2Error, RpcError):
            # The stream has ended before its outcome could be told.
            self._counters.failures["call ended early"] += 1
        except ProtocolError as error:
            status = Status.UNKNOWN
            self._counters.failures["handler failed"] += 1
            _log.error("handler broke the protocol", method=name, problem=str(error))
        except Exception:
            self._counters.failures["internal error"] += 1
            _log.exception("call failed within the server", method=name)
        finally:
            if stream.closable:
                # However it came about: no caller waits for an answer that nobody will give.
                stream.reset_nowait(ErrorCodes.INTERNAL_ERROR)
            del self._scopes[stream]
            self._counters.in_flight -= 1
            label = name if method is not None else UNKNOWN_METHOD
            self._counters.calls[label, status.name] += 1
            release()

    async def _answer(self, stream: Stream, name: str, method: const.Handler, headers: Headers) -> Status:
        try:
            deadline = Deadline.from_headers(headers)
            metadata = decode_metadata(headers)
        except (ValueError, OverflowError):  # the second: a timeout of hundreds of digits
            return await _refuse(stream, 200, Status.INTERNAL, "malformed headers")
        call: ServerCall[Any, Any] = ServerCall(
            stream,
            name,
            method.cardinality,
            method.request_type,
            method.reply_type,
            codec=_CODEC,
            status_details_codec=None,
            dispatch=_DISPATCH,
            deadline=deadline,
        )
        call.metadata = metadata
        call.stopping = self._stopping
        stream.deadline = deadline
        stream.wrapper = CallScope(deadline)
        async with call:
            await self._handle(call, method, stream.wrapper)
        return call.outcome or Status.CANCELLED

    async def _handle(self, call: ServerCall[Any, Any], method: const.Handler, scope: CallScope) -> None:
        """Run the handler; leave with an `RpcError`, a bug that is logged, or a cancellation."""
        try:
            with scope:
                await method.func(call)
        except RpcError:
            raise
        except Exception as error:
            meant = status_within(error)
            if meant is not None:
                raise meant from error
            self._counters.failures["handler failed"] += 1
            _log.exception("handler failed", method=call._method_name)
            raise
        except BaseException:
            call.tell_unavailable_nowait()
            raise


def _refusal(
    fields: Mapping[str, str], method: const.Handler | None
) -> tuple[int, Status | None, str] | None:
    """Return HTTP status, status and text if this is no call that can be served, else None."""
    if fields.get(":method") != "POST":
        return 405, None, ""
    kind, _, codec = fields.get("content-type", "").partition(";")[0].partition("+")
    if kind != GRPC_CONTENT_TYPE or codec not in ("", _CODEC.__content_subtype__):
        return 415, Status.UNKNOWN, "unacceptable content-type"
    if fields.get("te") != "trailers":
        return 400, Status.UNKNOWN, "te: trailers is missing"
    if method is None:
        return 200, Status.UNIMPLEMENTED, "method not found"
    return None


async def _refuse(stream: Stream, http_status: int, status: Status | None, text: str) -> Status:
    headers = [(":status", str(http_status))]
    if status is not None:
        headers += [
            ("content-type", GRPC_CONTENT_TYPE),
            ("grpc-status", str(status.value)),
            ("grpc-message", encode_grpc_message(text)),
        ]
    await stream.send_headers(headers, end_stream=True)
    stream.reset_nowait()
    return status or Status.UNKNOWN
