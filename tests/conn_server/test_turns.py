"""Who waits for acceptRate: first come first opened, and those that have left cost the others nothing."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from conn_server.settings import WebSocket
from conn_server.turns import Turns, TurnStatistics
from tests.conn_server.driven import TurnedPoller
from tests.conn_server.raw import UPGRADE

pytestmark = pytest.mark.usefixtures("no_leaks")

POST = b"POST /msg HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


class Door:
    """Keeps what it is given.

    Attributes:
        opened: places, in the order of their turns.
        turned_away: places of those that are to be told.
        failed_places: of those that were closed.
        turns: set when a place is opened.
    """

    def __init__(self) -> None:
        self.poller = TurnedPoller()
        self.opened: list[str] = []
        self.turns: defaultdict[str, trio.Event] = defaultdict(trio.Event)
        self.turned_away: list[str] = []
        self.failed_places: list[str | None] = []
        self._sockets: list[socket.socket] = []

    def open(self, sock: socket.socket, place: str) -> None:
        self.opened.append(place)
        self.turns[place].set()
        self._sockets.append(sock)

    def turn_away(self, sock: socket.socket, place: str) -> None:
        self.turned_away.append(place)
        self._sockets.append(sock)

    def failed(self, place: str | None) -> None:
        self.failed_places.append(place)

    def come(self, turns: Turns, place: str) -> socket.socket:
        """Accept a client; return its end."""
        ours, theirs = socket.socketpair()
        self._sockets.append(theirs)
        turns.take(ours, place)
        return theirs

    def close(self) -> None:
        self.poller.shut()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """Async, since a poller reads Trio's clock."""
    door = Door()
    yield door
    door.close()


def turns_of(door: Door, **settings: Any) -> Turns:
    return Turns(WebSocket(**{"accept_rate": 1.0, "accept_burst": 1, **settings}), door.poller, door)


@contextmanager
def nobody_left(door: Door) -> Iterator[None]:
    yield
    assert door.poller.statistics().sockets == 0


async def test_burst_is_opened_at_once_and_the_rest_in_the_order_in_which_it_came(
    door: Door, autojump_clock: trio.testing.MockClock
) -> None:
    turns = turns_of(door)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        door.poller.now = trio.current_time()
        for place in "abcd":
            door.come(turns, place)
        assert (door.opened, turns.statistics().held) == (["a"], 3)
        await trio.sleep(2.5)
        assert (door.opened, turns.statistics().held) == (["a", "b", "c"], 1)
        await trio.sleep(1)
        assert (door.opened, turns.statistics()) == (["a", "b", "c", "d"], TurnStatistics(0, {}))
        nursery.cancel_scope.cancel()


async def test_storm_beyond_the_patience_of_its_clients_comes_to_its_end(
    door: Door, autojump_clock: trio.testing.MockClock
) -> None:
    """Sixty clients that try again after a second, at twenty a second: all turns went to those that had left.

    From the second on the line held nobody but them, and grew by twenty a second, for ever.
    """
    turns = turns_of(door, accept_rate=20.0)
    inside: set[str] = set()

    async def insist(client: int) -> None:
        tries = 0
        while str(client) not in inside:
            tries += 1
            place = f"{client} {tries}"
            sock = door.come(turns, place)
            with trio.move_on_after(1.0):
                await door.turns[place].wait()
                inside.add(str(client))
            sock.close()

    async def drive() -> None:
        while True:
            door.poller.now = trio.current_time()
            door.poller.turn()
            await trio.sleep(0.001)

    async with trio.open_nursery() as driving:
        driving.start_soon(turns.run)
        driving.start_soon(drive)
        with trio.fail_after(5):
            async with trio.open_nursery() as clients:
                for client in range(60):
                    clients.start_soon(insist, client)
        driving.cancel_scope.cancel()
    assert len(inside) == 60
    assert turns.statistics().given_up["gone"] >= 60  # forty left after the first second, twenty once more


@pytest.mark.parametrize(
    ("said", "is_tls", "why"),
    [
        pytest.param(b"", False, "gone", id="nothing"),
        pytest.param(UPGRADE, False, "gone", id="an upgrade, for which both sides are needed"),
        pytest.param(UPGRADE[:7], False, "gone", id="half a head"),
        pytest.param(POST, False, "half_closed", id="a request of HTTP, whose answer it may wait for"),
        pytest.param(b"\x16\x03\x01", True, "gone", id="the beginning of a handshake"),
    ],
)
async def test_held_client_that_ends_its_side_loses_its_turn(
    door: Door, said: bytes, is_tls: bool, why: str
) -> None:
    turns = turns_of(door, **({"tls_cert": "cert.pem", "tls_key": "key.pem"} if is_tls else {}))
    door.come(turns, "first")
    with nobody_left(door):
        held = door.come(turns, "held")
        held.send(said)
        door.poller.turn()
        assert turns.statistics() == TurnStatistics(1, {})
        held.shutdown(socket.SHUT_WR)
        door.poller.turn()
        assert turns.statistics() == TurnStatistics(0, {why: 1})
        assert door.failed_places == (["held"] if why == "gone" else [])
        assert door.turned_away == (["held"] if why == "half_closed" else [])


async def test_held_client_that_resets_is_gone(door: Door) -> None:
    turns = turns_of(door)
    door.come(turns, "first")
    with nobody_left(door), socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        turns.take(listener.accept()[0], "held")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.send(POST)
        theirs.close()
        while turns.statistics().held:
            door.poller.turn()
        assert turns.statistics().given_up == {"gone": 1}


async def test_nobody_is_held_for_longer_than_the_hold_timeout(door: Door) -> None:
    door.poller.now = 1000.0
    turns = turns_of(door, accept_rate=0.001, hold_timeout_s=10.0)
    door.come(turns, "first")
    with nobody_left(door):
        door.come(turns, "held")
        door.poller.sweep_once(1010.0)
        assert door.turned_away == []
        door.poller.sweep_once(1010.1)
        assert (door.turned_away, door.failed_places) == (["held"], [])
        assert turns.statistics() == TurnStatistics(0, {"late": 1})


async def test_those_that_are_held_at_the_end_are_closed_and_counted(door: Door) -> None:
    turns = turns_of(door, accept_rate=0.001)
    with nobody_left(door):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            clients = [door.come(turns, place) for place in "abc"]
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert door.failed_places == ["b", "c"]
        assert turns.statistics() == TurnStatistics(0, {"drain": 2})
        assert clients[-1].recv(1) == b""


async def test_socket_that_comes_when_the_poller_has_ended_gives_its_place_back(door: Door) -> None:
    turns = turns_of(door)
    door.come(turns, "first")
    door.poller.shut()
    door.come(turns, "late")
    assert (door.failed_places, turns.statistics().held) == (["late"], 0)


async def test_abort_is_idempotent(door: Door) -> None:
    turns = turns_of(door)
    door.come(turns, "first")
    door.come(turns, "held")
    (held,) = door.poller.handlers()
    held.abort()
    held.abort()
    assert door.failed_places == ["held"]
