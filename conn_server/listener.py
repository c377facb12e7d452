"""The client port: accepts sockets, gives each a place, and starts what serves it.

    accept ──▶ Turns ──▶ Opening (poller) ──upgraded──▶ Client + Connection, one task in the clients nursery
                              ▲    └──────handed over─▶ HTTP, one task in the same nursery
                              └───────a later upgrade on a kept connection

Nothing here decides about a request or a frame.

A storm of reconnecting clients must not keep those that are signed in waiting: `acceptRate` of them a second
are read, the rest is held (turns.py).  Left in the kernel's backlog, those that do not fit into it would try
again after 1, 3, 7 and 15 s, as TCP does, all of them in the same moment, and be late when there is room for
them.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from conn_server.admission import Full
from conn_server.client import Client, Node
from conn_server.connection import Connection, TlsConnection, Wire
from conn_server.opening import Doorway, Opening
from conn_server.rejection import Rejection
from conn_server.settings import WebSocket
from conn_server.turns import Turns

_ROUND_ACCEPTS: Final = 64  # between two checkpoints
_OVERLOAD: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OVERLOAD_PAUSE_S: Final = 0.1
_MAX_REFUSALS: Final = 64
"""Sockets without a place that are read to be answered; beyond, they are closed without a word."""
BUSY: Final = Rejection(503, "busy", "too many clients come at once, try again later")
"""For those that were held and get no turn."""


class Http(Protocol):
    """Who serves what is not a WebSocket."""

    @property
    def cors_origin(self) -> str:
        """Whose pages may read answers: those that are given before it is known what was asked as well."""

    async def serve(self, sock: socket.socket, received: bytes) -> bytes | None:
        """Serve one connection, from the bytes that were read already, to its end, and close it.

        Or return the head of a WebSocket upgrade, and what came after it: the socket goes on as ours.
        """

    def drain(self) -> None:
        """Answer what is under way, then close; take no further request."""


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """Sockets that wait for their turn, and refused ones that are open, now; those that got no turn (by
    reason), accepted, closed without an answer, and not accepted for want of files, since the start."""

    held: int
    given_up: Mapping[str, int]
    refusals: int
    accepted: int
    unanswered: int
    overloads: int


class Listener:
    """Accepts clients.  Owned by the conn server's app; its tasks are in the nursery that it is given.

    Args:
        settings: of the client port.
        wire: what all connections share.
        node: what all clients share; its admission gives the places.
        http: serves what is no upgrade.
        clients: one task per client, and per HTTP connection.
        tls: the server's context, None for clear text.

    Attributes:
        turns: when accepted sockets are opened.
        doorway: what the openings share.
    """

    def __init__(
        self,
        settings: WebSocket,
        wire: Wire,
        node: Node,
        http: Http,
        clients: trio.Nursery,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._wire = wire
        self._node = node
        self._clients = clients
        self._tls = tls
        self._http = http
        self.turns = Turns(settings, wire.poller, self)
        self.doorway = Doorway(
            poller=wire.poller,
            openings=self,
            path=settings.path.encode(),
            origins=frozenset(origin.encode() for origin in settings.origins),
            head_timeout_s=settings.head_timeout_s,
            max_head_bytes=settings.max_head_bytes,
            close_timeout_s=settings.close_timeout_s,
            cors_origin=http.cors_origin,
        )
        self._refusals = self._accepted = self._unanswered = self._overloads = 0

    async def accept(self, listener: socket.socket) -> None:
        """Accept from one listening socket until cancelled; the socket is the caller's."""
        poller = self._wire.poller
        while True:
            await trio.lowlevel.wait_readable(listener)
            poller.now = trio.current_time()
            for _ in range(_ROUND_ACCEPTS):
                try:
                    sock, peer = listener.accept()
                except BlockingIOError:
                    break
                except OSError as exc:  # that one client is gone, unless we are out of files or memory
                    if exc.errno in _OVERLOAD:
                        self._overloads += 1
                        await trio.sleep(_OVERLOAD_PAUSE_S)
                    break
                self._accepted += 1
                self._take(sock, peer[0].removeprefix("::ffff:"))  # IPv4 on an IPv6 socket

    def statistics(self) -> ListenerStatistics:
        """Return what there is now and was so far."""
        turns = self.turns.statistics()
        return ListenerStatistics(
            turns.held, turns.given_up, self._refusals, self._accepted, self._unanswered, self._overloads
        )

    def _take(self, sock: socket.socket, address: str) -> None:
        """Give a new socket its place, and its opening when it is its turn; or what it is refused with."""
        try:
            place = self._node.admission.enter(address)
        except Full as full:
            self._refuse(sock, Rejection.of_full(full))
        else:
            self.turns.take(sock, place)

    def _refuse(self, sock: socket.socket, rejection: Rejection) -> None:
        """Answer a socket that has no place; with so many at a time, close it instead."""
        if self._refusals >= _MAX_REFUSALS:
            self._unanswered += 1
            sock.close()
        else:
            self._refusals += 1
            self._open(sock, None, rejection)

    def _open(self, sock: socket.socket, place: str | None, refusal: Rejection | None = None) -> None:
        """Let the poller drive the opening of a socket; without a place it is refused."""
        try:
            sock.settimeout(0)
            if self._tls is not None:
                sock.getpeername()  # of a reset one: `wrap_socket` would raise as well, and leave it open
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:  # reset meanwhile
            sock.close()
            self.failed(place)
            return
        self._drive(Opening(sock, self.doorway, place, refusal=refusal), sock, place)

    def _drive(self, opening: Opening, sock: socket.socket, place: str | None) -> bool:
        """Let the poller drive `opening`; or close it, where the poller has ended just now."""
        try:
            self._wire.poller.add(sock.fileno(), opening, deadline=opening.deadline)
        except (OSError, ValueError):
            sock.close()
            self.failed(place)
            return False
        return True

    # -- what turns, openings and HTTP report

    def open(self, sock: socket.socket, place: str) -> None:
        """Read what a socket says whose turn it is."""
        self._open(sock, place)

    def turn_away(self, sock: socket.socket, place: str) -> None:
        """Tell a client that gets no turn to come again."""
        self._node.admission.leave(place)
        self._refuse(sock, BUSY)

    def upgraded(self, sock: socket.socket, rest: bytes, place: str) -> None:
        """Make a client of an upgraded socket."""
        wire = self._wire
        client = Client(self._node, place, wire.poller.now)
        kind = TlsConnection if isinstance(sock, ssl.SSLSocket) else Connection
        connection = client.connection = kind(sock, wire, client)
        wire.poller.replace(sock.fileno(), connection)
        connection.look_at(client.session.deadline)
        self._clients.start_soon(client.run, name="client")
        if rest:
            connection.feed(rest)

    def handed_over(self, sock: socket.socket, received: bytes, place: str) -> None:
        """Serve a request that is no upgrade."""
        self._clients.start_soon(self._serve_http, sock, received, place, name="http")

    def failed(self, place: str | None) -> None:
        """A socket is closed that was neither a client's nor HTTP's."""
        if place is None:
            self._refusals -= 1
        else:
            self._node.admission.leave(place)

    async def _serve_http(self, sock: socket.socket, received: bytes, place: str) -> None:
        head = None
        try:
            head = await self._http.serve(sock, received)
        finally:
            if head is None:
                self._node.admission.leave(place)
        if head is not None:
            opening = Opening(sock, self.doorway, place, is_shaken=True)
            if self._drive(opening, sock, place):
                opening.take(head)
