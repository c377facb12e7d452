"""From a socket's turn to the answered upgrade, driven by the poller: no task, no timer, one small object.

The first request decides.  `GET` of the WebSocket path is answered here (upgrade.py, and wsproto for what is
not plain); anything else is handed, with the bytes read so far, to HTTP.

    TLS ──▶ HEAD ──▶ upgraded                 the socket is a client's
             │ └───▶ handed over              the socket is HTTP's
             └─────▶ REJECTED ──▶ closed      answered, waiting for the peer's end

One deadline holds from the turn to the end of the head, however long the socket was held before (turns.py has
a deadline for that); REJECTED has another one, for the peer's end.
"""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request
from wsproto.utilities import RemoteProtocolError

from conn_server.poller import READABLE, WRITABLE, Poller
from conn_server.rejection import Rejection
from conn_server.tls import BLOCKED, end_writing
from conn_server.upgrade import PlainUpgrade, breach, may_be_upgrade, plain_upgrade

_READ: Final = 16 * 1024
"""A TLS record at most: what OpenSSL had decrypted and kept back would raise no event."""


class Stage(Enum):
    """Where an opening stands."""

    TLS = "tls"
    HEAD = "head"
    REJECTED = "rejected"


class Openings(Protocol):
    """Who takes a socket on when its opening is over."""

    def upgraded(self, sock: socket.socket, rest: bytes, place: str) -> None:
        """The upgrade is answered; `rest` came after the head.  The poller drives the socket still."""

    def handed_over(self, sock: socket.socket, received: bytes, place: str) -> None:
        """The request is HTTP's, from `received` on.  The poller does not drive the socket any more."""

    def failed(self, place: str | None) -> None:
        """The socket is closed; `place` is to be given back."""


@dataclass(frozen=True, slots=True)
class OpeningStatistics:
    """Outcomes since the start; `rejected` by reason."""

    upgraded: int
    handed_over: int
    rejected: Mapping[str, int]


@dataclass(slots=True)
class Doorway:
    """What all openings share.  Owned by the listener.

    Attributes:
        path: the WebSocket path.
        origins: allowed Origin headers; empty: all.  A request without one is not a browser's, and allowed.
        head_timeout_s: from the turn of the socket to the end of the head, the TLS handshake included; from
            the request for one that comes back from HTTP.
        max_head_bytes: of the request's head.
        close_timeout_s: for the peer's end after a rejection.
        cors_origin: whose pages may read why they are turned away; "*" is any, "" is none.
        refusal: answer this to everybody from now on (the node is draining).
    """

    poller: Poller
    openings: Openings
    path: bytes
    origins: Collection[bytes]
    head_timeout_s: float
    max_head_bytes: int
    close_timeout_s: float
    cors_origin: str
    refusal: Rejection | None = None
    upgraded: int = 0
    handed_over: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def statistics(self) -> OpeningStatistics:
        """Return the outcomes since the start."""
        return OpeningStatistics(self.upgraded, self.handed_over, dict(self.rejected))


class Opening:
    """One accepted socket until its first request is known.  Owned by the poller; dies with its stage.

    Args:
        sock: non-blocking, in the poller; ours until it is passed on.
        doorway: shared by all.
        place: what `Admission.enter` gave; None where there was no place.
        refusal: answer this whatever is asked.
        is_shaken: the TLS handshake is over (a socket that comes back from HTTP).
    """

    __slots__ = ("_deadline", "_doorway", "_head", "_place", "_refusal", "_sock", "_stage")

    def __init__(
        self,
        sock: socket.socket,
        doorway: Doorway,
        place: str | None,
        *,
        refusal: Rejection | None = None,
        is_shaken: bool = False,
    ) -> None:
        self._sock = sock
        self._doorway = doorway
        self._place = place
        self._refusal = refusal
        self._head = b""
        self._deadline = doorway.poller.now + doorway.head_timeout_s
        self._stage = Stage.TLS if isinstance(sock, ssl.SSLSocket) and not is_shaken else Stage.HEAD

    def ready(self, events: int) -> None:
        """Read what came."""
        if self._stage is Stage.TLS and not self._shake_hands():
            return
        try:
            data = self._sock.recv(_READ)
        except BLOCKED:
            return
        except OSError:
            data = b""
        if not data:
            self._fail("gone")
        elif self._stage is Stage.HEAD:
            self.take(data)

    @property
    def deadline(self) -> float:
        """When it has to be over."""
        return self._deadline

    def swept(self, now: float) -> float:
        """Look at the deadline; return it."""
        if now > self._deadline:
            self._fail(f"{self._stage.value}_timeout")
        return self._deadline

    def abort(self) -> None:
        """Close the socket now; calling it again changes nothing."""
        if self._sock.fileno() >= 0:
            self._doorway.poller.remove(self._sock.fileno())
            self._sock.close()
            self._doorway.openings.failed(self._place)

    def take(self, data: bytes) -> None:
        """Take bytes of the head, and decide as soon as that can be done."""
        self._head += data
        doorway, head = self._doorway, self._head
        refusal = self._refusal or doorway.refusal
        if refusal is None and not may_be_upgrade(head, doorway.path):
            doorway.handed_over += 1
            doorway.poller.remove(self._sock.fileno())
            doorway.openings.handed_over(self._sock, head, self._place or "")
            return
        end = _head_end(head)
        if end > doorway.max_head_bytes or (not end and len(head) > doorway.max_head_bytes):
            self._reject(Rejection(431, "head_too_large", f"the head is over {doorway.max_head_bytes} bytes"))
        elif end and refusal is not None:
            self._reject(refusal)
        elif end:
            self._upgrade(head[:end], head[end:])

    def _shake_hands(self) -> bool:
        """Go on with the TLS handshake; return whether it is over."""
        fd, poller = self._sock.fileno(), self._doorway.poller
        try:
            self._sock.do_handshake()  # type: ignore[attr-defined]  # an SSLSocket in this stage
        except ssl.SSLWantReadError:
            poller.modify(fd, READABLE)
        except ssl.SSLWantWriteError:
            poller.modify(fd, WRITABLE)
        except OSError:
            self._fail("tls")
        else:
            poller.modify(fd, READABLE)
            self._stage = Stage.HEAD
            return True
        return False

    def _upgrade(self, head: bytes, rest: bytes) -> None:
        answer = answer_upgrade(head, self._doorway.origins)
        if isinstance(answer, Rejection):
            self._reject(answer)
            return
        try:
            sent = self._sock.send(answer)
        except OSError:
            sent = 0
        if sent != len(answer):  # the first bytes on this socket: they fit, unless it is broken
            self._fail("gone")
            return
        self._doorway.upgraded += 1
        self._doorway.openings.upgraded(self._sock, rest, self._place or "")

    def _reject(self, rejection: Rejection) -> None:
        self._doorway.rejected[rejection.reason] += 1
        try:
            self._sock.send(rejection.encode(self._doorway.cors_origin, self._head))
            end_writing(self._sock)
        except OSError:
            self.abort()
            return
        self._stage, self._head = Stage.REJECTED, b""
        self._deadline = self._doorway.poller.now + self._doorway.close_timeout_s
        self._doorway.poller.look_at(self._sock.fileno(), self._deadline)

    def _fail(self, reason: str) -> None:
        if self._stage is not Stage.REJECTED:
            self._doorway.rejected[reason] += 1
        self.abort()


def answer_upgrade(head: bytes, origins: Collection[bytes]) -> bytes | Rejection:
    """Return the answer to an upgrade request (RFC 6455 section 4.2.2), or why there is no upgrade.

    No subprotocol and no extension is accepted: permessage-deflate would cost over 30 KB per connection.
    """
    upgrade = plain_upgrade(head) or _unusual_upgrade(head)
    if isinstance(upgrade, Rejection):
        return upgrade
    if origins and upgrade.origin is not None and upgrade.origin not in origins:
        return Rejection(403, "origin", "this origin is not allowed")
    return upgrade.answer


def _unusual_upgrade(head: bytes) -> PlainUpgrade | Rejection:
    """Let wsproto judge what is not plain, and then ourselves what it does not look at."""
    protocol = WSConnection(ConnectionType.SERVER)
    try:
        protocol.receive_data(head)
        request = next(iter(protocol.events()), None)
    except RemoteProtocolError as exc:
        hint = exc.event_hint
        if isinstance(hint, RejectConnection):
            return _bad_upgrade(str(exc), hint.status_code, tuple(hint.headers))
        return Rejection(400, "bad_request", "not an HTTP request")
    except ValueError:
        return _bad_upgrade("a Host, Connection or Sec-WebSocket header cannot be decoded")
    if not isinstance(request, Request):
        return Rejection(400, "bad_upgrade", "not a WebSocket upgrade")
    broken = breach(head, request.extra_headers)
    if broken is not None:
        return _bad_upgrade(broken)
    origin = next((value for name, value in request.extra_headers if name.lower() == b"origin"), None)
    return PlainUpgrade(origin, bytes(protocol.send(AcceptConnection())))


def _bad_upgrade(why: str, status: int = 400, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Rejection:
    return Rejection(status, "bad_upgrade", f"not a WebSocket upgrade: {why}", headers)


def _head_end(data: bytes) -> int:
    """Return where the blank line ends, 0 if there is none yet; h11 takes bare line feeds, so we do."""
    ends = (data.find(b"\n\r\n") + 3, data.find(b"\n\n") + 2)
    return min((end for end in ends if end > 2), default=0)
