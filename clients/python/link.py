"""One connection to a conn server: the upgrade, frames in and out, who waits for which answer.

    run                              one task of the client's nursery; ends with the connection
     |- trio-websocket's reader      answers pings and close frames
     |- _write                       the only sender: a caller that is cancelled cannot halve a frame
     `- _receive                     every frame, at once, whether anybody listens or not

Answers find their request by id.  A Go-era client (version 0) sends no ids: the server answers in
order, so the oldest request on the wire is meant, also when its caller has gone in the meantime.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from clients.python.errors import Closed, ConnectFailed, Disconnected, NoAnswer
from clients.python.frames import Answer, decode_reply, encode_request
from clients.python.opening import open_stream, upgrade
from clients.python.options import Deadlines
from schema.closing import CloseCode
from schema.envelope import PackageType
from schema.message import Malformed

LOST = Closed(CloseCode.ABNORMAL, "connection lost")


@dataclass(slots=True, eq=False)
class _Request:
    """One request on its way; `done` when answered, or written if no answer is wanted, or at the end."""

    id: int
    frame: bytes
    wants_answer: bool
    done: trio.Event = field(default_factory=trio.Event)
    succeeded: bool = False
    answer: Answer | None = None
    abandoned: bool = False

    def succeed(self, answer: Answer | None) -> None:
        self.answer = answer
        self.succeeded = True
        self.done.set()


class Link:
    """One WebSocket connection.  Owned by a `Client`; `run` lives in the client's nursery.

    Attributes:
        closed: why the connection ended; None while it is open.
        ended: set together with `closed`.
        frames_sent, frames_received: WebSocket messages.
        malformed: frames that could not be understood; they are skipped.
        unexpected: answers that nobody waits for: their callers were cancelled, or gave up.
    """

    def __init__(self, version: int, deadlines: Deadlines, on_push: Callable[[bytes], Closed | None]) -> None:
        """Make a link that is not connected.

        Args:
            version: 0 sends no ids.
            deadlines: of every wait.
            on_push: takes the data of a push, or says why the connection must end; may raise Malformed.
        """
        self._version = version
        self._deadlines = deadlines
        self._on_push = on_push
        self._ids = count(1)
        # Capacity 0: what a caller hands over is being written, there is no queue; callers wait their turn.
        self._outgoing, self._to_write = trio.open_memory_channel[_Request](0)
        self._writing: _Request | None = None
        self._awaited: OrderedDict[int, _Request] = OrderedDict()
        self._scope = trio.CancelScope()
        self._websocket: WebSocketConnection | None = None
        self._is_closing = False
        self.closed: Closed | None = None
        self.ended = trio.Event()
        self.frames_sent = 0
        self.frames_received = 0
        self.malformed = 0
        self.unexpected = 0

    async def run(
        self,
        url: str,
        max_frame_bytes: int,
        ssl_context: ssl.SSLContext | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Connect, report readiness, and serve the connection until it ends; the socket dies with this.

        Raises:
            ConnectFailed: before it was ready.
        """
        deadline = trio.current_time() + self._deadlines.connect_s
        stream = await open_stream(url, ssl_context, deadline)
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._websocket = await upgrade(nursery, stream, url, max_frame_bytes, deadline)
                task_status.started()
                await self._serve(self._websocket)
                nursery.cancel_scope.cancel()
        except* (ConnectFailed, HandshakeError) as group:
            failure = group.exceptions[0]
        finally:
            self._end(LOST)
            await trio.aclose_forcefully(stream)
        if failure is not None:
            raise failure if isinstance(failure, ConnectFailed) else ConnectFailed(f"{url}: {failure!r}")

    async def request(
        self, type_: PackageType, data: bytes = b"", *, wants_answer: bool = True
    ) -> Answer | None:
        """Send one request and return its answer, or None once it is written where none is wanted.

        Cancelled before its turn to be written, it is not sent; after that, its answer is skipped.

        Raises:
            NoAnswer: not within the deadline, waiting for its turn included.
            Disconnected: the connection has ended, or ended meanwhile.
        """
        if self.ended.is_set():  # the close frame may still be on its way, but nothing follows it
            raise Disconnected(self.closed or LOST)
        id_ = next(self._ids)
        wire_id = id_ if self._version and wants_answer else 0
        request = _Request(id_, encode_request(type_, data, wire_id), wants_answer)
        try:
            with trio.fail_after(self._deadlines.answer_s):
                await self._outgoing.send(request)
                await request.done.wait()
        except trio.BrokenResourceError:
            raise Disconnected(self.closed or LOST) from None
        except trio.TooSlowError:
            raise NoAnswer(f"{type_.name} was not answered in {self._deadlines.answer_s} s") from None
        finally:
            request.abandoned = True
            if self._version:  # without ids its answer must still be told from the next one's
                self._awaited.pop(id_, None)
        if not request.succeeded:
            raise Disconnected(self.closed or LOST)
        return request.answer

    async def aclose(self, closed: Closed) -> None:
        """Say `closed` to the server, wait a moment for its close frame, and end `run`."""
        self._end(closed)
        self._is_closing = True
        try:
            if self._websocket is not None:
                with trio.move_on_after(self._deadlines.close_s):
                    await self._websocket.aclose(closed.code, closed.reason)
        finally:
            self._scope.cancel()

    def abort(self, closed: Closed) -> None:
        """End the connection without a word to the server; `run` closes the socket."""
        self._end(closed)
        self._scope.cancel()

    async def _serve(self, websocket: WebSocketConnection) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, websocket)
                await self._receive(websocket)
                nursery.cancel_scope.cancel()

    async def _write(self, websocket: WebSocketConnection) -> None:
        async with self._to_write:  # closed with this task, so that no caller waits for a turn in vain
            async for request in self._to_write:
                if self.ended.is_set():
                    request.done.set()
                    return
                if not request.abandoned and not await self._write_one(websocket, request):
                    return

    async def _write_one(self, websocket: WebSocketConnection, request: _Request) -> bool:
        if request.wants_answer:
            self._awaited[request.id] = request
        self._writing = request
        try:
            with trio.fail_after(self._deadlines.write_s):
                await websocket.send_message(request.frame)
        except ConnectionClosed as exc:
            self._end(_closed_by(exc))
            return False
        except trio.TooSlowError:
            self.abort(Closed(CloseCode.ABNORMAL, f"nothing was written for {self._deadlines.write_s} s"))
            return False
        self._writing = None
        self.frames_sent += 1
        if not request.wants_answer:
            request.succeed(None)
        return True

    async def _receive(self, websocket: WebSocketConnection) -> None:
        try:
            while True:
                payload = await websocket.get_message()
                self.frames_received += 1
                closed = self._take(payload)
                if closed is not None:
                    await self.aclose(closed)
                    return
        except ConnectionClosed as exc:
            self._end(_closed_by(exc))
            if self._is_closing:
                # Without the reader `aclose` would wait in vain for the server's close frame; it ends this.
                await trio.sleep_forever()

    def _take(self, payload: bytes | str) -> Closed | None:
        """Give one frame to whom it is for; return why the connection must end, if it must."""
        try:
            # Replies are binary; what a text frame holds is judged by the same decoder.
            answer = decode_reply(payload.encode() if isinstance(payload, str) else payload)
            if answer.type == PackageType.MESSAGE:
                return self._on_push(answer.data)
        except Malformed:
            self.malformed += 1
            return None
        request = self._awaited_by(answer)
        if request is None or request.abandoned:
            self.unexpected += 1
        else:
            request.succeed(answer)
        return None

    def _awaited_by(self, answer: Answer) -> _Request | None:
        if self._version:
            return self._awaited.pop(answer.id, None)
        return self._awaited.popitem(last=False)[1] if self._awaited else None

    def _end(self, closed: Closed) -> None:
        """Note the first reason, and wake everybody who waits for an answer."""
        if self.closed is None:
            self.closed = closed
            self.ended.set()
        # Each time: a request may have been on its way to its turn when the connection began to end.
        for request in self._awaited.values():
            request.done.set()
        if self._writing is not None:
            self._writing.done.set()


def _closed_by(exc: ConnectionClosed) -> Closed:
    return LOST if exc.reason is None else Closed(exc.reason.code, exc.reason.reason or "")
