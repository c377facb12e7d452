"""Openings and connections that a test drives by hand: no task, no waiting, times made up.

The peer's end is the other end of a socket pair, where what is sent is there at once.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from conn_server.connection import CLOSED, Connection, Limits, Pause, TlsConnection, Wire
from conn_server.opening import Doorway, Opening
from conn_server.poller import Poller
from conn_server.rejection import Rejection
from tests.conn_server.raw import ACCEPTED, UPGRADE, Frame, parse_frames
from tests.conn_server.serving import LOG

MAX_TURNS = 20_000


class TurnedPoller(Poller):
    """Rounds at a test's word."""

    def __init__(self) -> None:
        super().__init__(LOG)
        self._epoll = select.epoll()

    def turn(self) -> int:
        """Handle all that is ready, until nothing is; return how many events there were.

        A handler that neither takes what is ready nor stops listening for it would keep `run` spinning.
        """
        handled = 0
        while events := self._epoll.poll(0, 256):
            for fd, what in events:
                handler = self._handlers[fd]
                if handler is not None:
                    handler.ready(what)
            handled += len(events)
            assert handled < MAX_TURNS, "spins"
        return handled

    def shut(self) -> None:
        """Do what the end of `run` does."""
        for handler in list(self.handlers()):
            handler.abort()
        self._epoll.close()

    def sweep_once(self, now: float) -> None:
        """Let every handler look at its deadlines."""
        for handler in list(self.handlers()):
            handler.swept(now)


class Echo:
    """Answers every message with itself, unless the test says otherwise.

    Attributes:
        answers: what is answered instead, by message.
    """

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes | Pause | Callable[[], bytes | Pause | None] | None] = {}
        self.received: list[bytes] = []
        self.swept_at: list[float] = []
        self.closings = 0
        self.codes: list[int] = []

    def receive(self, payload: bytes, now: float) -> bytes | Pause | None:
        self.received.append(payload)
        answer = self.answers.get(payload, payload)
        return answer() if callable(answer) else answer

    def swept(self, now: float) -> float:
        self.swept_at.append(now)
        return now + 1

    def closing(self) -> None:
        self.closings += 1

    def closed(self, code: int) -> None:
        self.codes.append(code)


class RawPeer:
    """The other end, non-blocking."""

    def __init__(self, sock: socket.socket, turn: Callable[[], object]) -> None:
        self.sock = sock
        self._turn = turn
        self._rest = b""
        self.is_at_end = False

    def say(self, *pieces: bytes) -> None:
        """Send, and let the server have its turns after each piece."""
        for piece in pieces:
            view = memoryview(piece)
            while view:
                try:
                    view = view[self.sock.send(view) :]
                except (BlockingIOError, ssl.SSLWantWriteError):
                    assert self._turn(), "the server takes nothing more"
            self._turn()

    def hear(self) -> bytes:
        """Return all that has come."""
        heard, self._rest = self._rest, b""
        while not self.is_at_end:
            try:
                data = self.sock.recv(1 << 16)
            except (BlockingIOError, ssl.SSLWantReadError):
                if not self._turn():
                    break
                continue
            except (ConnectionError, ssl.SSLError):  # reset; or the end without a close_notify
                data = b""
            heard += data
            self.is_at_end = not data
        return heard

    def keep(self, data: bytes) -> None:
        """Take `data`, which the test has read itself, as heard before everything else."""
        self._rest += data

    def frames(self) -> list[Frame]:
        """Return the whole frames that have come."""
        found, self._rest = parse_frames(self.hear())
        return found

    def reset(self) -> None:
        """Close, with what there is unread: the other end sees a reset."""
        self.sock.close()
        self._turn()


@dataclass
class Door:
    """A doorway on a poller of its own, and what came of its openings.

    Attributes:
        tls: the server's and the client's context.
        receive_by: makes the receiver of the next client.
    """

    poller: TurnedPoller
    wire: Wire
    doorway: Doorway
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None
    connections: list[Connection] = field(default_factory=list)
    receivers: list[Echo] = field(default_factory=list)
    handed: list[tuple[socket.socket, bytes, str]] = field(default_factory=list)
    failures: list[str | None] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)

    def upgraded(self, sock: socket.socket, rest: bytes, place: str) -> None:
        kind = TlsConnection if isinstance(sock, ssl.SSLSocket) else Connection
        receiver = Echo()
        connection = kind(sock, self.wire, receiver)
        self.poller.replace(sock.fileno(), connection)
        self.connections.append(connection)
        self.receivers.append(receiver)
        if rest:
            connection.feed(rest)

    def handed_over(self, sock: socket.socket, received: bytes, place: str) -> None:
        self.handed.append((sock, received, place))
        self._sockets.append(sock)

    def failed(self, place: str | None) -> None:
        self.failures.append(place)

    def arrive(self, place: str | None = "here", refusal: Rejection | None = None) -> socket.socket:
        """Connect: an opening on our end, the peer's end as it is."""
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        self._sockets.append(theirs)
        if self.tls is not None:
            ours = self.tls[0].wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
        self.poller.add(ours.fileno(), Opening(ours, self.doorway, place, refusal=refusal))
        return theirs

    def knock(self, *, place: str | None = "here", refusal: Rejection | None = None) -> RawPeer:
        """Connect, the TLS handshake included."""
        theirs = self.arrive(place, refusal)
        peer = RawPeer(theirs, self.poller.turn)
        if self.tls is not None:
            peer.sock = shaken = self.tls[1].wrap_socket(
                theirs, server_hostname="localhost", do_handshake_on_connect=False
            )
            while True:
                try:
                    shaken.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    assert self.poller.turn(), "the handshake stands still"
            self._sockets.append(shaken)
        return peer

    def enter(self) -> tuple[Connection, Echo, RawPeer]:
        """Connect and upgrade."""
        peer = self.knock()
        peer.say(UPGRADE)
        assert ACCEPTED in peer.hear()
        return self.connections[-1], self.receivers[-1], peer

    def close(self) -> None:
        self.poller.shut()
        for sock in self._sockets:
            sock.close()


@contextmanager
def open_door(
    *,
    limits: Limits | None = None,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    origins: tuple[bytes, ...] = (),
    max_head_bytes: int = 8192,
) -> Iterator[Door]:
    """Make a doorway; leaving closes all, and checks that every socket was let go."""
    poller = TurnedPoller()
    wire = Wire(poller, limits or Limits(), LOG)
    doorway = Doorway(
        poller=poller,
        openings=None,  # type: ignore[arg-type]  # the door itself, at once
        path=b"/room",
        origins=origins,
        head_timeout_s=5.0,
        max_head_bytes=max_head_bytes,
        close_timeout_s=5.0,
        cors_origin="*",
    )
    door = doorway.openings = Door(poller, wire, doorway, tls)
    try:
        yield door
        for handler in list(poller.handlers()):
            handler.abort()
        assert poller.statistics().sockets == 0
        assert all(connection.state == CLOSED for connection in door.connections)
    finally:
        door.close()
