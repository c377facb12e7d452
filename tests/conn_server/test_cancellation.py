"""Cancelled at any moment, the tree and a client alone leave nothing: no socket, task, thread or entry.

The moment is a number of checkpoints: the same steps of the same tasks, cut at each of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from wsproto.utilities import ProtocolError

from conn_server.client import Client
from conn_server.connection import Connection
from schema.envelope import HEARTBEAT
from schema.message import Level, Push
from tests.conn_server.conftest import Tls
from tests.conn_server.raw import UPGRADE, frame
from tests.conn_server.serving import Peer, Served, message, serving, sign_in

pytestmark = pytest.mark.usefixtures("no_leaks")

MOMENTS = [*range(30), *range(30, 100, 5), *range(100, 300, 40)]
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError, AssertionError, OSError)


async def talk(served: Served, tls: Tls | None) -> None:
    """Live a client's life, to its end or to the server's."""
    with suppress(*BROKEN):
        peer = await served.connect(tls=tls.client if tls else None)
        await peer.say(HEARTBEAT)
        await peer.say(sign_in("lobby"))
        for number in range(5):
            await peer.say(message("lobby", b"%d" % number, number + 1))
        await peer.say(sign_in("other"))
        while True:
            await peer.hear()


async def stay_half_sent(served: Served, data: bytes) -> None:
    with suppress(*BROKEN):
        stream = await served.raw()
        await stream.send_all(data)
        await stream.receive_some()


async def come_and_go(served: Served) -> None:
    for _ in range(10):
        with suppress(*BROKEN):
            peer = await served.join("lobby")
            await peer.aclose()


async def push(served: Served) -> None:
    while True:
        for room in ("lobby", "other"):
            await served.port.broadcaster.broadcast(Push(room, Level.NORMAL, b"\x01\x00\x00\x00x"))
        await trio.lowlevel.checkpoint()


async def live(served: Served, tls: Tls | None, cut: Callable[[], Awaitable[None]]) -> None:
    """Let all that can be under way be under way until `cut` returns."""
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(talk, served, tls)
        nursery.start_soon(stay_half_sent, served, b"" if tls else UPGRADE[:20])
        nursery.start_soon(stay_half_sent, served, b"" if tls else b"POST /msg HTTP/1.1\r\n\r\n")
        if tls is None:
            nursery.start_soon(stay_half_sent, served, UPGRADE + frame(b"x" * 9000)[:5000])
            nursery.start_soon(come_and_go, served)
        nursery.start_soon(push, served)
        await cut()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_tree_cancelled_at_any_moment_leaves_nothing(is_tls: bool, tls: Tls) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    for moment in MOMENTS:
        async with serving(**tls.settings if is_tls else {}) as served:

            async def cut(served: Served = served, moment: int = moment) -> None:
                for _ in range(moment):
                    await trio.lowlevel.checkpoint()
                served.scope.cancel()
                await served.ended.wait()

            await live(served, tls if is_tls else None, cut)
        assert served.is_empty, moment
        assert served.wire.poller._epoll.closed
        assert trio.lowlevel.current_statistics().tasks_living == before, moment


async def test_drain_begun_at_any_moment_ends_and_leaves_nothing() -> None:
    for moment in MOMENTS[::3]:
        async with serving() as served:

            async def cut(served: Served = served, moment: int = moment) -> None:
                for _ in range(moment):
                    await trio.lowlevel.checkpoint()
                served.port.drain(trio.current_time() + 0.02)
                await served.ended.wait()

            await live(served, None, cut)
            assert served.is_empty, moment


async def test_client_cancelled_at_any_moment_leaves_nothing_of_it() -> None:
    async with serving() as served:
        other = await served.join("lobby")
        (staying,) = served.clients
        tasks = trio.lowlevel.current_statistics().tasks_living
        for moment in MOMENTS:

            async def cut(moment: int = moment) -> None:
                for _ in range(moment):
                    await trio.lowlevel.checkpoint()
                for client in served.clients:
                    if client is not staying:
                        client.cancel()

            await live(served, None, cut)
            for peer in served.peers[1:]:
                await peer.aclose()
            del served.peers[1:]
            await served.until(lambda: served.clients == [staying])
            await served.until(lambda: served.node.admission.statistics().connections == 1)
            assert served.node.rooms.statistics().memberships == 1, moment
            await served.until(lambda: trio.lowlevel.current_statistics().tasks_living == tasks)
        assert isinstance(other, Peer)
        assert isinstance(staying, Client)
        assert isinstance(staying.connection, Connection)


@pytest.mark.parametrize("payload", [sign_in("lobby"), message("lobby", b"x")])
async def test_connection_aborted_before_its_work_begins_does_no_work(payload: bytes) -> None:
    async with serving() as served:
        await served.join("lobby")
        (client,) = served.clients
        calls = served.logic.calls
        connection = client.connection
        assert connection is not None
        connection.feed(frame(payload))
        connection.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert served.logic.calls == calls
        assert served.is_empty
