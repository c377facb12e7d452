"""The client port as a whole: sign-in, push, drain, and nothing left behind."""

from __future__ import annotations

import pytest
import trio

from conn_server.connection import Limits
from runtime.sections import ClientDrain
from schema.access import Code
from schema.envelope import HEARTBEAT, PONG, encode_ack, encode_push
from schema.message import Level, Push
from tests.conn_server.raw import UPGRADE
from tests.conn_server.serving import Served, message, serving

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_client_signs_in_beats_and_is_pushed_to() -> None:
    async with serving() as served:
        peer = await served.join("lobby")
        await peer.say(HEARTBEAT)
        assert await peer.hear() == PONG
        push = Push("lobby", Level.NORMAL, b"\x01\x00\x00\x00x")
        assert await served.port.broadcaster.broadcast(push) == 1
        assert await peer.hear() == encode_push(push, 0)
        await peer.say(message("lobby", b"hello"))
        await served.until(lambda: served.logic.published)
        assert served.logic.published[0].data == b"hello"
        await peer.aclose()
        await served.until(lambda: not served.node.rooms.statistics().rooms)


async def test_draining_sends_1001_with_a_hint_and_ends() -> None:
    async with serving(farewell=ClientDrain(retry_after_s=2.0, step_interval_s=0.001)) as served:
        peers = [await served.join("lobby") for _ in range(3)]
        served.port.drain(trio.current_time() + 5)
        for peer in peers:
            closed = await peer.closed()
            assert (closed.code, closed.reason) == (1001, '{"retry_after_ms":2000}')
            await peer.aclose()
        assert served.http.drained
        await served.ended.wait()


async def test_draining_takes_no_new_client_and_refuses_who_is_on_its_way() -> None:
    async with serving() as served:
        late = await served.raw()
        await late.send_all(UPGRADE[:-1])
        peer = await served.join("lobby")
        served.port.drain(trio.current_time() + 5)
        assert (await peer.closed()).code == 1001
        await late.send_all(UPGRADE[-1:])
        with trio.fail_after(5):
            assert (await late.receive_some()).startswith(b"HTTP/1.1 503 ")
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(*served.address)


async def test_draining_lets_what_is_under_way_be_answered_first() -> None:
    async with serving() as served:
        peer = await served.join("lobby")
        served.logic.gate = trio.Event()
        await peer.say(message("lobby", b"x", 4))
        await served.until(lambda: served.logic.under_way)
        served.port.drain(trio.current_time() + 5)
        await served.until(lambda: served.http.drained)
        served.logic.gate.set()
        assert await peer.hear() == encode_ack(Code.OK, "suc", 4)
        assert (await peer.closed()).code == 1001


async def test_clients_are_sent_away_in_steps() -> None:
    farewell = ClientDrain(step_connections=2, step_interval_s=0.05)
    async with serving(farewell=farewell) as served:
        peers = [await served.join("lobby") for _ in range(6)]
        start = trio.current_time()
        served.port.drain(trio.current_time() + 5)
        closed_at = []
        for peer in peers:
            await peer.closed()
            closed_at.append(trio.current_time() - start)
        assert closed_at[-1] >= 0.1


async def test_deadline_of_the_drain_ends_those_who_do_not_go() -> None:
    async with serving() as served:
        peer, _ = await served.join("lobby"), await served.join("lobby")
        served.logic.gate = trio.Event()
        await peer.say(message("lobby", b"x"))
        await served.until(lambda: served.logic.under_way)
        start = trio.current_time()
        served.port.drain(trio.current_time() + 0.1)
        await served.ended.wait()
        assert 0.1 <= trio.current_time() - start < 1
        assert served.is_empty


async def test_idle_openings_do_not_keep_a_drain_waiting() -> None:
    async with serving() as served:
        await served.raw()
        await served.until(lambda: not served.is_empty)
        served.port.drain(trio.current_time() + 5)
        await served.ended.wait()
        assert served.is_empty


async def test_numbers_of_every_part_are_shown() -> None:
    async with serving() as served:
        await served.join("lobby")
        await served.port.broadcaster.broadcast(Push("lobby", Level.NORMAL, b"\x01\x00\x00\x00x"))
        assert served.number("poller_sockets") == 1
        assert served.number("clients_frames_total") == 1
        assert served.number("rooms_memberships") == 1
        assert served.number("admission_connections") == 1
        assert served.number("openings_upgraded_total") == 1
        assert served.number("listener_accepted_total") == 1
        assert served.number("broadcast_frames_total") == 1


# -- deadlines by the real sweep: each is looked at when it is over, not when a later one would be

SHORT = Limits(stall_timeout_s=0.1, close_timeout_s=0.1)


async def soon(served: Served) -> None:
    with trio.fail_after(2):
        await served.until(lambda: served.is_empty)


async def test_peer_that_ignores_the_close_is_gone_after_the_close_timeout() -> None:
    async with serving(limits=SHORT, sweep_interval_s=0.05) as served:
        await served.join("lobby")
        connection = served.clients[0].connection
        assert connection is not None
        connection.close(1001)
        await soon(served)


async def test_peer_that_takes_nothing_is_gone_after_stall_and_close_timeout() -> None:
    async with serving(limits=SHORT, sweep_interval_s=0.05) as served:
        await served.join("lobby")
        connection = served.clients[0].connection
        assert connection is not None
        while connection.outbox is None:
            connection.send(b"x" * 100_000, Level.NORMAL)
        await soon(served)
        assert served.wire.statistics().evicted == {"stalled": 1}


async def test_rejected_peer_that_does_not_end_is_gone_after_the_close_timeout() -> None:
    async with serving(close_timeout_s=0.1, sweep_interval_s=0.05) as served:
        stream = await served.raw()
        await stream.send_all(b"GET /room HTTP/1.1\r\n\r\n")
        await served.until(lambda: not served.is_empty)
        await soon(served)


async def test_silent_peer_is_gone_after_the_head_timeout() -> None:
    async with serving(head_timeout_s=0.1, sweep_interval_s=0.05) as served:
        await served.raw()
        await served.until(lambda: not served.is_empty)
        await soon(served)
