"""A push to every member: one order, encoded once, and a slow member delays nobody."""

from __future__ import annotations

import socket
import ssl

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from conn_server.broadcast import Broadcaster, BroadcasterStatistics
from conn_server.connection import CLOSED, Connection, Limits
from conn_server.rooms import Rooms
from schema.envelope import encode_push
from schema.message import Item, Level, Push
from tests.conn_server.conftest import Tls
from tests.conn_server.driven import Door, RawPeer, open_door
from tests.conn_server.raw import BINARY, close_code

pytestmark = pytest.mark.usefixtures("no_leaks")

CHUNK = 8
LARGE = 5 * CHUNK
LIMITS = Limits(outbox_soft_bytes=20_000, outbox_hard_bytes=40_000)


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
PLAIN_AND_TLS = pytest.mark.parametrize("contexts", [False, True], indirect=True, ids=["plain", "TLS"])
TOGETHER = pytest.mark.parametrize("together", [1, 3, 10])


@pytest.fixture
def contexts(request: pytest.FixtureRequest, tls: Tls) -> Contexts | None:
    return tls.both if request.param else None


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conn_server.broadcast._CHUNK_MEMBERS", CHUNK)


def push(text: bytes = b"x", level: Level = Level.NORMAL) -> Push:
    return Push("lobby", level, len(text).to_bytes(4, "little") + text, (Item("ann", 1, b"i" * 16),))


class Room:
    """One room with members that a test drives."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.rooms: Rooms[Connection] = Rooms(10)
        self.broadcaster = Broadcaster(self.rooms, joins=door.tls is None)

    def join(self, version: int = 0) -> tuple[Connection, RawPeer]:
        connection, _, peer = self.door.enter()
        self.rooms.join(connection, "lobby", version)
        return connection, peer


async def test_every_member_gets_it_in_its_generation() -> None:
    with open_door() as door:
        room = Room(door)
        _, old = room.join(0)
        _, new = room.join(1)
        assert await room.broadcaster.broadcast(push()) == 2
        assert old.frames() == [(BINARY, encode_push(push(), 0))]
        assert new.frames() == [(BINARY, encode_push(push(), 1))]
        assert room.broadcaster.statistics() == BroadcasterStatistics(1, 0, 2)


@PLAIN_AND_TLS
@pytest.mark.parametrize("members", [1, LARGE])
async def test_pushes_that_come_together_are_frames_of_their_own_in_order(
    contexts: Contexts | None, members: int
) -> None:
    with open_door(tls=contexts) as door:
        room = Room(door)
        peers = [(version, room.join(version)[1]) for version in (0, 1) for _ in range(members)]
        pushes = [push(b"1"), push(b"2", Level.IMPORTANT), push(b"3" * 200)]
        assert await room.broadcaster.broadcast(*pushes) == 2 * members
        for version, peer in peers:
            assert peer.frames() == [(BINARY, encode_push(one, version)) for one in pushes]
        assert room.broadcaster.statistics() == BroadcasterStatistics(3, 0, 6 * members)


async def test_pushes_that_come_together_cost_each_member_one_send() -> None:
    class Counting:
        sends = 0

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def send(self, data: bytes) -> int:
            Counting.sends += 1
            return self._sock.send(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self._sock, name)

    with open_door() as door:
        room = Room(door)
        for _ in range(LARGE):
            connection, _ = room.join()
            connection.sock = Counting(connection.sock)  # type: ignore[assignment]
        await room.broadcaster.broadcast(*[push(b"%d" % number) for number in range(10)])
        assert Counting.sends == LARGE


async def test_room_without_members_costs_nothing_and_is_counted() -> None:
    broadcaster = Broadcaster(Rooms(10))
    assert await broadcaster.broadcast(push(), push()) == 0
    assert broadcaster.statistics() == BroadcasterStatistics(2, 2, 0)


async def test_two_pushes_to_a_large_room_do_not_interleave() -> None:
    with open_door() as door:
        room = Room(door)
        peers = [room.join()[1] for _ in range(LARGE)]
        pushes = [push(b"%d" % number) for number in range(4)]
        async with trio.open_nursery() as nursery:
            for one in pushes:
                nursery.start_soon(room.broadcaster.broadcast, one)
        orders = {tuple(peer.frames()) for peer in peers}
        assert len(orders) == 1
        assert sorted(orders.pop()) == [(BINARY, encode_push(one, 0)) for one in pushes]


async def test_who_leaves_while_it_is_being_sent_gets_nothing_more() -> None:
    with open_door() as door:
        room = Room(door)
        members = [room.join() for _ in range(LARGE)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.broadcaster.broadcast, push())
            while not room.broadcaster.statistics().frames:
                await trio.lowlevel.checkpoint()
            gone, left = members[-1]
            room.rooms.leave(gone, "lobby")
            _, late = room.join()
        assert left.frames() == []
        assert late.frames() == []
        assert members[-2][1].frames() == [(BINARY, encode_push(push(), 0))]
        assert room.broadcaster.statistics().frames == LARGE - 1


async def test_room_that_ends_while_it_is_being_sent_is_no_error() -> None:
    with open_door() as door:
        room = Room(door)
        members = [room.join() for _ in range(LARGE)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.broadcaster.broadcast, push())
            await trio.lowlevel.checkpoint()
            for connection, _ in members:
                room.rooms.leave(connection, "lobby")
        assert room.rooms.statistics().rooms == 0


async def test_cancelled_before_its_turn_it_sends_nothing_and_once_begun_it_is_sent_to_all() -> None:
    with open_door() as door:
        room = Room(door)
        peers = [room.join()[1] for _ in range(LARGE)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.broadcaster.broadcast, push(b"begun"))
            while not room.broadcaster.statistics().frames:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(room.broadcaster.broadcast, push(b"waiting"))
            nursery.cancel_scope.cancel()
        assert all(peer.frames() == [(BINARY, encode_push(push(b"begun"), 0))] for peer in peers)


async def test_member_that_has_gone_is_no_error_for_the_others() -> None:
    with open_door() as door:
        room = Room(door)
        gone, gone_peer = room.join()
        _, peer = room.join()
        gone_peer.sock.close()
        while gone.state != CLOSED:
            await room.broadcaster.broadcast(push())
        assert peer.frames()


@PLAIN_AND_TLS
@TOGETHER
async def test_member_that_never_reads_is_evicted_and_the_others_get_everything(
    contexts: Contexts | None, together: int
) -> None:
    with open_door(limits=LIMITS, tls=contexts) as door:
        room = Room(door)
        slow, slow_peer = room.join()
        _, peer = room.join()
        while slow.state == 0:
            await room.broadcaster.broadcast(*[push(b"m" * 5000, Level.IMPORTANT)] * together)
            assert slow.outbox is None or slow.outbox.size_bytes < 46_000
            assert len(peer.frames()) == together
        assert close_code(slow_peer.frames()[-1]) == 4008
        assert door.wire.statistics().evicted == {"overflow": 1}


@PLAIN_AND_TLS
@TOGETHER
async def test_normal_pushes_to_a_member_that_never_reads_are_dropped_and_counted(
    contexts: Contexts | None, together: int
) -> None:
    with open_door(limits=LIMITS, tls=contexts) as door:
        room = Room(door)
        slow, slow_peer = room.join()
        numbers = [b"%04d" % number * 500 for number in range(300)]
        for start in range(0, 300, together):
            await room.broadcaster.broadcast(*map(push, numbers[start : start + together]))
        assert slow.outbox is not None
        assert slow.outbox.size_bytes <= 20_000
        heard = slow_peer.frames()
        dropped = door.wire.statistics().dropped_normal["full"]
        assert len(heard) + dropped == 300
        assert dropped > 100
        # The oldest that wait go: what comes is in order, and the newest is there.
        wanted = [encode_push(push(text), 0) for text in numbers]
        places = [wanted.index(payload) for _, payload in heard]
        assert places == sorted(places)
        assert places[-1] == 299


async def test_heartbeats_get_their_turn_between_chunks() -> None:
    with open_door() as door:
        room = Room(door)
        for _ in range(LARGE):
            room.join()
        turns = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.broadcaster.broadcast, push())
            while room.broadcaster.statistics().frames < LARGE:
                await trio.lowlevel.checkpoint()
                turns += 1
        await wait_all_tasks_blocked()
        assert turns >= 3
