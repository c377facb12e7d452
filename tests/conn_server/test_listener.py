"""The client port's door: places, refusals, the pace, hand-over to HTTP, and running out of files."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack, suppress

import pytest
import trio

from schema.envelope import HEARTBEAT, PONG
from tests.conn_server.conftest import Tls
from tests.conn_server.raw import UPGRADE, frame
from tests.conn_server.serving import SUC, Served, serving, sign_in

pytestmark = pytest.mark.usefixtures("no_leaks")


async def answer(stream: trio.SocketStream, said: bytes) -> bytes:
    """Say it, and return all that comes until the end."""
    await stream.send_all(said)
    heard = b""
    with trio.fail_after(5):
        while data := await stream.receive_some():
            heard += data
    return heard


def places(served: Served) -> int:
    return served.node.admission.statistics().connections


async def test_connection_over_the_limit_gets_503_and_a_place_that_is_given_back_serves_the_next() -> None:
    async with serving(max_connections=2) as served:
        peers = [await served.join("lobby") for _ in range(2)]
        heard = await answer(await served.raw(), UPGRADE)
        assert heard.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in heard
        assert places(served) == 2
        await peers[0].aclose()
        await served.until(lambda: places(served) == 1)
        await served.join("lobby")


async def test_address_over_its_limit_gets_429() -> None:
    async with serving(per_address=1) as served:
        await served.connect()
        assert (await answer(await served.raw(), UPGRADE)).startswith(b"HTTP/1.1 429 ")
        assert served.node.admission.statistics().refused == {"address": 1}


async def test_refused_sockets_are_bounded_and_beyond_that_closed_without_a_word() -> None:
    async with serving(max_connections=1) as served:
        await served.connect()
        refused = [await served.raw() for _ in range(80)]
        await served.until(lambda: served.wire.poller.statistics().sockets == 65)
        await served.until(lambda: served.number("listener_refusals") == 64)
        await served.until(lambda: served.number("listener_unanswered_total") == 16)
        for stream in refused:
            await stream.aclose()
        await served.until(lambda: served.number("listener_refusals") == 0)
        assert places(served) == 1


async def test_plain_request_is_http_and_its_place_comes_back() -> None:
    async with serving() as served:
        request = b"POST /msg HTTP/1.1\r\nHost: x\r\n\r\n"
        assert (await answer(await served.raw(), request)).startswith(b"HTTP/1.1 204 ")
        assert served.http.received == [request]
        await served.until(lambda: places(served) == 0)


async def test_upgrade_on_a_kept_connection_makes_a_client_that_keeps_its_place(tls: Tls) -> None:
    for settings, context in (({}, None), (tls.settings, tls.client)):
        async with serving(**settings) as served:
            served.http.later = UPGRADE + frame(sign_in("lobby"))
            stream: trio.abc.Stream = await served.raw()
            if context is not None:
                stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            heard = b""
            with trio.fail_after(5):
                while not heard.endswith(SUC):
                    heard += await stream.receive_some()
            assert heard.startswith(b"HTTP/1.1 101 ")
            assert places(served) == 1
            await trio.aclose_forcefully(stream)
            await served.until(lambda served=served: served.is_empty)  # type: ignore[misc]


async def test_kept_connection_whose_later_request_is_no_upgrade_gives_its_place_back() -> None:
    async with serving() as served:
        served.http.later = b"GET /room HTTP/1.1\r\nHost: x\r\n\r\n"
        heard = await answer(await served.raw(), b"GET / HTTP/1.1\r\n\r\n")
        assert heard.startswith(b"HTTP/1.1 400 ")
        await served.peers[0].aclose()
        await served.until(lambda: served.is_empty)


async def test_frames_glued_to_the_upgrade_are_answered() -> None:
    async with serving() as served:
        stream = await served.raw()
        await stream.send_all(UPGRADE + frame(HEARTBEAT))
        heard = b""
        with trio.fail_after(5):
            while not heard.endswith(b"\xe5\xbd\x95"):  # the end of "sign in first"
                heard += await stream.receive_some()
        assert heard.startswith(b"HTTP/1.1 101 ")


async def test_silent_connection_is_closed_after_the_head_timeout() -> None:
    async with serving() as served:
        stream = await served.raw()
        await served.until(lambda: places(served) == 1)
        served.sweep(4.9)
        assert places(served) == 1
        served.sweep(5.1)
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
        assert served.is_empty


async def test_pace_lets_the_burst_in_at_once_and_holds_the_rest() -> None:
    async with serving(accept_rate=50.0, accept_burst=3) as served:
        start = trio.current_time()
        for _ in range(8):
            stream = await served.raw()
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await served.until(lambda: served.number("listener_accepted_total") == 8)
        assert len(served.http.received) <= 3 + (trio.current_time() - start) * 50
        assert served.number("listener_held") <= 5
        await served.until(lambda: len(served.http.received) == 8)
        assert trio.current_time() - start >= 4 / 50
        assert served.number("listener_held") == 0


async def test_held_clients_keep_their_turn() -> None:
    async with serving(accept_rate=50.0, accept_burst=1) as served:
        for number in range(5):
            stream = await served.raw()
            await stream.send_all(b"GET /%d HTTP/1.1\r\n\r\n" % number)
        await served.until(lambda: len(served.http.received) == 5)
        assert [head.split()[1] for head in served.http.received] == [b"/%d" % number for number in range(5)]


async def test_held_clients_have_their_places_and_who_finds_none_is_told_at_once() -> None:
    async with serving(accept_rate=0.001, accept_burst=1, max_connections=3) as served:
        for _ in range(3):
            await served.raw()
        await served.until(lambda: places(served) == 3)
        assert (await answer(await served.raw(), UPGRADE)).startswith(b"HTTP/1.1 503 ")
        assert served.number("listener_held") == 2


async def test_held_clients_are_closed_and_counted_when_the_port_drains() -> None:
    async with serving(accept_rate=0.001, accept_burst=1) as served:
        streams = [await served.raw() for _ in range(4)]
        await served.until(lambda: served.number("listener_held") == 3)
        served.port.drain(trio.current_time() + 5)
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            assert await streams[-1].receive_some() == b""
        await served.until(lambda: served.number("listener_held") == 0)
        assert served.number("listener_given_up_total") == 3


async def test_held_client_that_leaves_gives_its_place_back_at_once() -> None:
    async with serving(accept_rate=0.001, accept_burst=1) as served:
        first = await served.raw()
        for number in range(3):
            stream = await served.raw()
            await served.until(lambda number=number: places(served) == 2)  # type: ignore[misc]
            await stream.aclose()
            await served.until(lambda: places(served) == 1)
        assert served.number("listener_given_up_total") == 3
        await first.aclose()
        await served.until(lambda: served.is_empty)


async def test_client_that_is_held_for_too_long_gets_503_and_no_place() -> None:
    async with serving(accept_rate=0.001, accept_burst=1, hold_timeout_s=10.0) as served:
        await served.raw()
        late = await served.raw()
        await served.until(lambda: places(served) == 2)
        served.sweep(10.1)
        assert places(served) == 0  # the first was not held, but has said nothing
        heard = await answer(late, UPGRADE)
        assert heard.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in heard
        assert served.number("listener_given_up_total") == 1


async def test_clients_that_come_one_by_one_cost_one_place_of_the_burst_each() -> None:
    async with serving(accept_rate=0.001, accept_burst=6) as served:
        for number in range(6):
            await served.raw()
            await served.until(lambda number=number: places(served) == number + 1)  # type: ignore[misc]


async def test_tls_client_is_served_like_any_other(tls: Tls) -> None:
    async with serving(**tls.settings) as served:
        peer = await served.join("lobby", tls=tls.client)
        await peer.say(HEARTBEAT)
        assert await peer.hear() == PONG


async def test_running_out_of_files_keeps_those_who_are_in_and_serves_again_later() -> None:
    async with serving() as served:
        peer = await served.join("lobby")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with ExitStack() as waiting:
            clients = [waiting.enter_context(socket.socket()) for _ in range(5)]
            next_fd = clients[-1].fileno() + 1
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (next_fd + 2, hard))
                for client in clients:
                    client.connect(served.address)
                await served.until(lambda: served.number("listener_overloads_total"))
                await peer.say(HEARTBEAT)
                assert await peer.hear() == PONG
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await served.until(lambda: served.number("listener_accepted_total") == 6)
        await served.join("lobby")
