"""HTTP on sockets that the opening hands over, served by hypercorn.

    handed over ──▶ served ──▶ lingering ──▶ closed
                      └──────▶ given back               a later request is a WebSocket upgrade

Every stage has a deadline: the first head, the body (routes), the request as a whole, each write, the wait
for the next request, and the peer's end after ours.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio
from hypercorn.config import Config
from hypercorn.typing import AppWrapper, ASGIFramework
from structlog.typing import FilteringBoundLogger

from conn_server.http.streams import HandedStream
from conn_server.rejection import Rejection
from conn_server.settings import Http, WebSocket
from conn_server.upgrade import may_be_upgrade
from runtime.failures import leaves
from runtime.http import HastyStream, HttpConnection, Leave, Stages, http_config

if TYPE_CHECKING:
    from h11 import Request

LINGER_S: Final = 2.0
"""How long the peer's end is waited for: closing with unread input would take our answer back."""
SPARED_S: Final = 1.0
"""A connection that has waited for a request for less is not given up for a newcomer."""

TOO_MANY_CONNECTIONS: Final = Rejection(503, "connections", "too many connections, try again later")


@dataclass(frozen=True, slots=True)
class HttpStatistics:
    """Connections: now, and counts since the start.

    Attributes:
        open: being served, now.
        taken: handed over to us.
        given_back: upgraded to WebSocket by a later request.
        refused: turned away with 503 at the limit.
        displaced: idle ones that were closed to make room at the limit.
        timed_out: ended by a deadline, by stage: head, request, idle.
        failures: by type of exception.
    """

    open: int
    taken: int
    given_back: int
    refused: int
    displaced: int
    timed_out: dict[str, int]
    failures: dict[str, int]


class HttpFront:
    """Serves handed-over sockets.  Owned by the conn server's app; has no task of its own.

    Args:
        app: `HttpRoutes.app`.
        settings: `[http]`.
        websocket: `[websocket]`: its path, and the limits of a head.
        log: for connections that failed.

    Attributes:
        cors_origin: whose pages may read answers.
    """

    def __init__(
        self,
        app: ASGIFramework,
        settings: Http,
        websocket: WebSocket,
        log: FilteringBoundLogger,
    ) -> None:
        self.cors_origin = settings.cors_origin
        self._app = app
        self._settings = settings
        self._websocket_path = websocket.path.encode()
        self._log = log
        self._config = http_config(websocket.max_head_bytes)
        self._stages = Stages(
            head_s=websocket.head_timeout_s,
            idle_s=settings.keep_alive_timeout_s,
            request_s=settings.body_timeout_s + settings.request_timeout_s + 2 * settings.write_timeout_s,
        )
        self._served: dict[_Connection, None] = {}  # in no order that matters
        self._is_draining = False
        self._turning_away = 0
        self._taken = self._given_back = self._refused = self._displaced = 0
        self._timed_out: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    async def serve(self, sock: socket.socket, received: bytes) -> bytes | None:
        """Serve one connection to its end, and close it.

        Or, when a later request of it is a WebSocket upgrade, return that request's head and what came after
        it: the socket is the caller's again.  Cancelling closes the socket at once.  A failure stays in here.

        Args:
            sock: non-blocking, its TLS handshake done; ours from now on.
            received: what was read from it already.
        """
        self._taken += 1
        head = None
        try:
            if self._has_room():
                head = await self._run(sock, received)
            else:
                await self._turn_away(sock, received)
        except BaseExceptionGroup as group:
            failed, others = group.split(Exception)
            if failed is not None:
                self._failed(failed)
            if others is not None:  # cancelled as well
                raise others from None
        except Exception as exc:
            self._failed(exc)
        finally:
            if head is None:
                trio.lowlevel.notify_closing(sock)
                sock.close()
        if head is not None:
            self._given_back += 1
        return head

    def drain(self) -> None:
        """Finish what has begun to come, and close each connection that nothing has come on since.

        A head that does not come to its end has no longer than that of a first request.
        """
        self._is_draining = True
        for connection in self._served:
            connection.end_if_quiet()

    def statistics(self) -> HttpStatistics:
        """Return what there is now and was so far."""
        return HttpStatistics(
            len(self._served),
            self._taken,
            self._given_back,
            self._refused,
            self._displaced,
            dict(self._timed_out),
            dict(self._failures),
        )

    async def _run(self, sock: socket.socket, received: bytes) -> bytes | None:
        """Serve; return the head of a WebSocket upgrade, and what came after it."""
        stream = HandedStream(sock, received)
        hasty = HastyStream(stream, self._settings.write_timeout_s)
        connection = _Connection(
            self._call_app,
            self._config,
            hasty,
            self._stages,
            stream,
            self._websocket_path,
            lambda: self._is_draining,
        )
        self._served[connection] = None
        try:
            await connection.run()
        finally:
            self._served.pop(connection, None)
        if connection.scope.cancelled_caught:
            if trio.current_time() >= connection.scope.deadline:
                self._timed_out[connection.stage] += 1
        elif connection.upgrade is not None:
            return connection.upgrade
        elif stream.has_sent_end and not stream.has_received_end:
            await _linger(sock)
        return None

    def _has_room(self) -> bool:
        """Say whether one more can be served, closing the one that has waited longest if that helps."""
        if len(self._served) < self._settings.connections:
            return True
        spared = trio.current_time() - SPARED_S
        idle = [one for one in self._served if one.is_idle and one.idle_since < spared]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one.idle_since)
        del self._served[oldest]
        oldest.scope.cancel()
        self._displaced += 1
        return True

    async def _call_app(self, scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> None:
        """Do what hypercorn's wrapper does, which would pass over what the application raises in silence."""
        try:
            await self._app(scope, receive, send)
        except Exception as exc:
            self._failed(exc)
            raise

    async def _turn_away(self, sock: socket.socket, received: bytes) -> None:
        self._refused += 1
        with suppress(OSError):  # into an empty socket buffer: it fits, unless the peer is gone
            sock.send(TOO_MANY_CONNECTIONS.encode(self.cors_origin, received))
        if self._turning_away >= self._settings.connections:
            return
        self._turning_away += 1
        try:
            await HandedStream(sock).send_eof()
            await _linger(sock)
        finally:
            self._turning_away -= 1

    def _failed(self, error: BaseException) -> None:
        for leaf in leaves(error):
            self._failures[type(leaf).__name__] += 1
        self._log.error("http connection failed", exc_info=error)


class _Connection(HttpConnection):
    """A connection of the front.  Owned by its task.

    Attributes:
        upgrade: the head of a WebSocket upgrade, and what came after it.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        stream: HastyStream,
        stages: Stages,
        handed: HandedStream,
        websocket_path: bytes,
        is_draining: Callable[[], bool],
    ) -> None:
        super().__init__(app, config, stream, stages)
        self.upgrade: bytes | None = None
        self._handed = handed
        self._websocket_path = websocket_path
        self._is_draining = is_draining

    @property
    def has_begun(self) -> bool:
        return self._handed.has_unread or super().has_begun

    def end_if_quiet(self) -> None:
        """End it unless a request is under way, or part of one has come: that one would get no answer."""
        if not self.is_idle:
            return
        if self.has_begun:
            self.scope.deadline = min(self.scope.deadline, trio.current_time() + self._stages.head_s)
        else:
            self.scope.cancel()

    def became_idle(self) -> None:
        super().became_idle()
        if self._is_draining():
            self.end_if_quiet()

    def request_received(self, request: Request, rest: bytes) -> None:
        # The opening has looked at the first request: giving that back would go round in circles.
        if self.requests > 1 and _is_upgrade(request, self._websocket_path):
            self.upgrade = b"".join(
                (
                    b"%s %s HTTP/%s\r\n" % (request.method, request.target, request.http_version),
                    *(b"%s: %s\r\n" % header for header in request.headers.raw_items()),
                    b"\r\n",
                    rest,
                )
            )
            raise Leave


def _is_upgrade(request: Request, path: bytes) -> bool:
    return (
        request.method == b"GET"
        and may_be_upgrade(b"GET %s " % request.target, path)
        and any(name == b"upgrade" and value.lower() == b"websocket" for name, value in request.headers)
    )


async def _linger(sock: socket.socket) -> None:
    """Discard what comes until the peer's end."""
    stream = HandedStream(sock)
    with trio.move_on_after(LINGER_S), suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
