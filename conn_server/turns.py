"""Whose turn it is to be opened: `acceptRate` sockets a second, and the rest is held until then.

    accepted ──▶ held ──its turn──▶ opened
                  ├───the client has ended its side──▶ closed, or turned away if it may still listen
                  └───holdTimeout──▶ turned away

Rules
1. Who comes first is opened first.
2. A client that has left costs no turn, and its place is given back at once.  Otherwise, as soon as more
   clients wait than come in within their patience, all turns go to sockets that nobody listens to any more,
   their owners come again behind them, and nobody gets in until the storm is over.
3. Nobody is held for ever: who has lost the network says no farewell.

The poller watches a held socket for the end alone; what the client says stays in the kernel.
"""

from __future__ import annotations

import socket
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from conn_server.admission import Pace
from conn_server.poller import ENDED, Poller
from conn_server.settings import WebSocket
from conn_server.upgrade import may_be_upgrade

_PEEKED_BYTES: Final = 1024
"""Enough to tell an upgrade by its path."""


class Door(Protocol):
    """Who takes a socket on that waits no more."""

    def open(self, sock: socket.socket, place: str) -> None:
        """It is its turn."""

    def turn_away(self, sock: socket.socket, place: str) -> None:
        """It has no turn: tell the client to come again, and give the place back."""

    def failed(self, place: str | None) -> None:
        """The socket is closed; `place` is to be given back."""


@dataclass(frozen=True, slots=True)
class TurnStatistics:
    """Sockets that are held now; those that were and got no turn since the start, by why.

    Attributes:
        held: now.
        given_up: `gone`, the client has left; `half_closed`, it has ended its side but may listen: turned
            away; `late`, held for the whole of `holdTimeout`: turned away; `drain`, held when the node went.
    """

    held: int
    given_up: Mapping[str, int]


class Held:
    """One socket that waits for its turn.  Owned by its turns; driven by the poller, where it dies first.

    Args:
        turns: whose it is.
        sock: as it was accepted.
        place: what `Admission.enter` gave.
        until: when it has waited for too long.
    """

    __slots__ = ("_turns", "place", "sock", "until")

    def __init__(self, turns: Turns, sock: socket.socket, place: str, until: float) -> None:
        self._turns = turns
        self.sock = sock
        self.place = place
        self.until = until

    def ready(self, events: int) -> None:
        """The client has ended its side, or the connection is broken."""
        self._turns.ended(self, is_broken=bool(events & ~ENDED))

    def swept(self, now: float) -> float:
        """Look at the deadline; return it."""
        if now > self.until:
            self._turns.late(self)
        return self.until

    def abort(self) -> None:
        """Close the socket now; calling it again changes nothing."""
        self._turns.abandon(self)


class Turns:
    """Gives accepted sockets their turn.  Owned by the listener.

    Args:
        settings: of the client port.
        poller: watches those that are held.
        door: takes them on.
    """

    def __init__(self, settings: WebSocket, poller: Poller, door: Door) -> None:
        self._poller = poller
        self._door = door
        self._pace = Pace(settings.accept_rate, settings.accept_burst)
        self._timeout_s = settings.hold_timeout_s
        self._path = settings.path.encode()
        self._is_tls = bool(settings.tls_cert)
        self._held: OrderedDict[Held, None] = OrderedDict()  # in the order of their turns; places bound them
        self._holds = trio.Event()  # replaced when set
        self._given_up: Counter[str] = Counter()

    def take(self, sock: socket.socket, place: str) -> None:
        """Open a socket if it is its turn, hold it until then if not."""
        now = self._poller.now
        if not self._held and not self._pace.wait_s(now):
            self._pace.admit(now)
            self._door.open(sock, place)
            return
        held = Held(self, sock, place, now + self._timeout_s)
        try:
            self._poller.add(sock.fileno(), held, ENDED, deadline=held.until)
        except (OSError, ValueError):  # the poller has ended just now
            sock.close()
            self._door.failed(place)
            return
        self._held[held] = None
        self._holds.set()

    async def run(self) -> None:
        """Open those that are held at their turns, until cancelled; then close the rest."""
        try:
            while True:
                while self._held:
                    await trio.sleep(self._pace.wait_s(trio.current_time()))
                    self._poller.now = trio.current_time()
                    if self._held:  # they may have left meanwhile, and cost nothing then
                        self._pace.admit(self._poller.now)
                        first = next(iter(self._held))
                        self._release(first)
                        self._door.open(first.sock, first.place)
                await self._holds.wait()
                self._holds = trio.Event()
        finally:
            for held in list(self._held):
                self.abandon(held)

    def statistics(self) -> TurnStatistics:
        """Return what there is now and was so far."""
        return TurnStatistics(len(self._held), dict(self._given_up))

    # -- what those that are held report

    def ended(self, held: Held, *, is_broken: bool) -> None:
        """Let go of a client that has ended its side: it has left, or waits for an answer to HTTP.

        The two look the same, so that the second gets no turn either; but it is told.
        """
        if not is_broken and self._may_listen(held.sock):
            self._turn_away(held, "half_closed")
        else:
            self._close(held, "gone")

    def late(self, held: Held) -> None:
        """Let go of a client that has waited for too long."""
        self._turn_away(held, "late")

    def abandon(self, held: Held) -> None:
        """Close a held socket; no longer held, nothing changes."""
        if held in self._held:
            self._close(held, "drain")

    def _may_listen(self, sock: socket.socket) -> bool:
        """Say whether there is a request that needs nothing more from the client: no upgrade, and no TLS."""
        if self._is_tls:
            return False
        try:
            said = sock.recv(_PEEKED_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return bool(said) and not may_be_upgrade(said, self._path)

    def _turn_away(self, held: Held, why: str) -> None:
        self._given_up[why] += 1
        self._release(held)
        self._door.turn_away(held.sock, held.place)

    def _close(self, held: Held, why: str) -> None:
        self._given_up[why] += 1
        self._release(held)
        held.sock.close()
        self._door.failed(held.place)

    def _release(self, held: Held) -> None:
        """Hold it no longer; the poller does not watch it any more."""
        del self._held[held]
        self._poller.remove(held.sock.fileno())
