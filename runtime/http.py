"""hypercorn's HTTP/1.1 connection, with deadlines that hold, for the ports of ours that speak HTTP.

What is otherwise in hypercorn 0.18 under quart-trio 0.12, and mended here:

1. Its idle timer is a task that the task of a request arms again, and quart-trio cancels that task as soon
   as the answer is out.  Here a stage is the deadline of one scope, set in a step that cannot be cancelled.
2. For the same reason a connection that should be closed after an answer stays open.  Here that is shielded.
3. Its writes are shielded and have no deadline.  Here they are not shielded, and `HastyStream` has one.
4. It changes to HTTP/2 and to WebSocket when asked.  Here it does not, and a head that came in one piece is
   measured as well.

tests/runtime/test_http.py guards every name of theirs that is hooked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState

if TYPE_CHECKING:
    from h11 import Request

_CLOSE_TIMEOUT_S: Final = 5.0


class Leave(Exception):
    """Raised by `HttpConnection.request_received`: `run` ends and leaves the socket as it is."""


@dataclass(frozen=True, slots=True)
class Stages:
    """How long a connection may stay in each stage, in seconds; then it is closed without a word.

    Attributes:
        head_s: until its first request's head is there.
        idle_s: from an answer until the next request's head is there.
        request_s: from a head to the end of its answer.  The application answers for its own deadlines
            in less; this one ends what it cannot.
    """

    head_s: float
    idle_s: float
    request_s: float


def http_config(max_head_bytes: int) -> Config:
    """Return hypercorn's settings as far as they are not a connection's `Stages`."""
    config = Config()
    config.h11_max_incomplete_size = max_head_bytes
    config.include_server_header = False
    config.accesslog = config.errorlog = None
    return config


class HttpConnection(TCPServer):
    """One connection.  Owned by the task that awaits `run`, which closes the socket afterwards.

    Attributes:
        scope: everything the connection does; cancel it to end the connection at once.
        stage: "head" until the first request is there, then "request" and "idle" in turn.
        idle_since: when the last answer was out, or the connection began.
        requests: whose heads have been read.
    """

    def __init__(self, app: AppWrapper, config: Config, stream: HastyStream, stages: Stages) -> None:
        context = WorkerContext(max_requests=None)
        super().__init__(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]
        self.idle_task = _StageClock(self)
        self.scope = trio.CancelScope(deadline=trio.current_time() + stages.head_s)
        self.stage = "head"
        self.idle_since = trio.current_time()
        self.requests = 0
        self._stages = stages
        self._http: _PlainHttp | None = None
        self._is_left = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.stage != "request"

    @property
    def has_begun(self) -> bool:
        """Whether part of a request has been read that is not under way yet."""
        return self._http is not None and bool(self._http.connection.trailing_data[0])

    async def run(self) -> None:
        """Serve requests until the peer or a deadline ends it; cancelling ends it at once."""
        with self.scope:
            await super().run()

    def became_idle(self) -> None:
        """A request is expected: the first one, or the next."""
        if self.requests:  # hypercorn says so at the start as well
            self.stage = "idle"
            self.idle_since = trio.current_time()
            self.scope.deadline = self.idle_since + self._stages.idle_s

    def became_busy(self) -> None:
        """The head of a request is there."""
        self.stage = "request"
        self.requests += 1
        self.scope.deadline = trio.current_time() + self._stages.request_s

    def request_received(self, request: Request, rest: bytes) -> None:
        """Look at a request before it is served; `rest` came after its head.

        Raises:
            Leave: it is not served here.
        """

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_TIMEOUT_S):
                await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        wrapper = self.protocol
        wrapper.protocol = self._http = _PlainHttp(
            self.request_received,
            wrapper.app,
            wrapper.config,
            wrapper.context,
            wrapper.task_group,
            wrapper.state,
            wrapper.ssl,
            wrapper.client,
            wrapper.server,
            wrapper.send,
        )
        try:
            await super()._read_data()
        except Leave:
            self._is_left = True

    async def _close(self) -> None:
        if not self._is_left:
            await super()._close()


class _StageClock(TrioSingleTask):
    """Stands where hypercorn keeps its idle timer.  Neither method has a checkpoint."""

    def __init__(self, connection: HttpConnection) -> None:
        super().__init__()
        self._connection = connection

    async def restart(self, task_group: object, action: object) -> None:
        self._connection.became_idle()

    async def stop(self) -> None:
        self._connection.became_busy()


@dataclass(frozen=True, slots=True)
class _PlainRequest:
    """What hypercorn makes a stream from; headers are (name in lower case, value)."""

    method: bytes
    target: bytes
    http_version: bytes
    headers: list[tuple[bytes, bytes]]


class _PlainHttp(H11Protocol):
    """HTTP/1.1 and nothing else; an Upgrade is ignored, as RFC 9110 section 7.8 allows."""

    def __init__(self, received: Callable[[Request, bytes], None], *args: Any) -> None:
        super().__init__(*args)
        self._received = received

    async def _check_protocol(self, event: Request) -> None:
        # h11 measures only heads that come in pieces.
        size = (
            len(event.method)
            + len(event.target)
            + sum(len(name) + len(value) for name, value in event.headers)
        )
        if size > self.config.h11_max_incomplete_size:
            await self._send_error_response(431)
            await self.send(Closed())
            raise Leave
        self._received(event, bytes(self.connection.trailing_data[0]))

    async def _create_stream(self, request: Request) -> None:
        headers = [header for header in request.headers if header[0] != b"upgrade"]
        plain = _PlainRequest(request.method, request.target, request.http_version, headers)
        await super()._create_stream(plain)  # type: ignore[arg-type]


class HastyStream(trio.abc.HalfCloseableStream):
    """A stream over a socket whose writes have a deadline of their own.

    Owned by the connection's task.

    Args:
        stream: what is written to; closed with this one.  Its attribute `socket` is shown here as well.
        write_timeout_s: for one `send_all`; the stream is closed when it is over.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, write_timeout_s: float) -> None:
        self._stream = stream
        self._write_timeout_s = write_timeout_s
        self.socket: Any = stream.socket  # type: ignore[attr-defined]

    async def send_all(self, data: Any) -> None:
        """Send `data`.

        Raises:
            trio.BrokenResourceError: also when the deadline is over.
        """
        with trio.move_on_after(self._write_timeout_s) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the peer does not read")

    async def wait_send_all_might_not_block(self) -> None:
        with trio.move_on_after(self._write_timeout_s):
            await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
