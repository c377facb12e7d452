"""The front on raw sockets: pieces, stalls, limits, upgrades, failures, the end."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from structlog.testing import CapturingLogger

from conn_server.http import front as http
from conn_server.http.front import HttpFront
from conn_server.settings import Http, WebSocket
from tests.conn_server.http.serving import Served, http_port, read_answer, read_to_end

pytestmark = pytest.mark.usefixtures("no_leaks")

BODY = b"room_id=a&msg=b"
POST = (
    b"POST /msg HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
GET = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET /room?v=1 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
SUC = b'{"code":1,"msg":"suc"}'


async def send_until_broken(stream: trio.abc.Stream, byte: bytes) -> None:
    """Send a byte every 10 ms until the peer has closed."""
    with suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(byte)
            await trio.sleep(0.01)


async def post(stream: trio.abc.Stream) -> None:
    await stream.send_all(POST)
    assert (await read_answer(stream))[2] == SUC


# -- requests


async def test_request_in_pieces_of_one_byte_is_one_request() -> None:
    async with http_port() as served, await served.connect() as stream:
        for number in range(len(POST)):
            await stream.send_all(POST[number : number + 1])
        assert (await read_answer(stream))[2] == SUC
        assert len(served.logic.published) == 1


@pytest.mark.parametrize("size", [1, 20, len(POST) - len(BODY), len(POST) - 1, len(POST)])
async def test_bytes_that_were_read_already_are_replayed(size: int) -> None:
    async with http_port() as served:
        near, far = socket.socketpair()
        near.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        async with stream:
            served.nursery.start_soon(served.front.serve, near, POST[:size])
            await stream.send_all(POST[size:] + GET)
            assert (await read_answer(stream))[2] == SUC
            assert (await read_answer(stream))[0] == 404


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with http_port() as served, await served.connect() as stream:
        await stream.send_all((POST + GET) * 10)
        for _ in range(10):
            assert (await read_answer(stream))[2] == SUC
            assert (await read_answer(stream))[0] == 404
        assert [message.origin_seq for message in served.logic.published] == list(range(1, 11))


async def test_client_that_waits_for_100_continue_gets_it() -> None:
    async with http_port() as served, await served.connect() as stream:
        head, body = POST.split(b"\r\n\r\n")
        await stream.send_all(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(body)
        assert (await read_answer(stream))[2] == SUC


async def test_client_that_half_closes_gets_its_answer() -> None:
    async with http_port() as served, await served.connect() as stream:
        await stream.send_all(POST)
        await stream.send_eof()
        assert (await read_to_end(stream)).endswith(SUC)


async def test_answer_to_a_body_that_still_comes_is_not_lost() -> None:
    # Closing with unread input resets the connection, and the peer's kernel throws our answer away.
    async with http_port(max_body_bytes=100) as served, await served.connect() as stream:
        await stream.send_all(b"POST /msg HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n")
        await served.until(lambda: bool(served.routes.statistics().refusals))
        await stream.send_all(bytes(3_000_000))
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" * 9 + b"\n"]
)
async def test_garbage_is_answered_with_400_and_ends_its_connection_alone(garbage: bytes) -> None:
    async with http_port() as served, await served.connect() as other:
        await post(other)
        async with await served.connect() as stream:
            await stream.send_all(garbage)
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400 ")
        await post(other)


async def test_head_over_the_limit_is_refused() -> None:
    async with http_port(max_head_bytes=500) as served, await served.connect() as stream:
        await post(stream)
        await stream.send_all(GET[:-2] + b"X: " + b"x" * 500 + b"\r\n\r\n")
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 431 ")


# -- stalls


@pytest.mark.parametrize(
    ("sent", "settings", "stage"),
    [
        pytest.param(b"", {"head_timeout_s": 0.1}, "head", id="nothing"),
        pytest.param(POST[:30], {"head_timeout_s": 0.1}, "head", id="half a head"),
        pytest.param(POST, {"keep_alive_timeout_s": 0.1}, "idle", id="no next request"),
        pytest.param(POST + GET[:-2], {"keep_alive_timeout_s": 0.1}, "idle", id="half a next head"),
        pytest.param(POST * 3, {"keep_alive_timeout_s": 0.1}, "idle", id="no fourth request"),
    ],
)
async def test_peer_that_stalls_is_closed(sent: bytes, settings: dict[str, Any], stage: str) -> None:
    async with http_port(**settings) as served, await served.connect() as stream:
        if sent:
            await stream.send_all(sent)
        assert (await read_to_end(stream)).count(SUC) == sent.count(BODY)
        await served.until(lambda: served.front.statistics().timed_out == {stage: 1})


async def test_head_that_trickles_does_not_last_longer() -> None:
    async with http_port(head_timeout_s=0.2) as served, await served.connect() as stream:
        await send_until_broken(stream, b"G")
        assert served.front.statistics().timed_out == {"head": 1}


async def test_peer_that_does_not_read_its_answers_is_closed() -> None:
    async with http_port(write_timeout_s=0.1) as served:
        near, far = socket.socketpair()
        near.setblocking(False)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with far:
            served.nursery.start_soon(served.front.serve, near, GET * 50)
            await served.until(lambda: served.front.statistics().open == 1)
            await served.until(lambda: near.fileno() == -1)
        assert served.front.statistics().failures == {}


async def test_peer_that_does_not_end_after_our_end_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "LINGER_S", 0.1)
    async with http_port() as served, await served.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 404 ")
        await send_until_broken(stream, b"x")


# -- upgrades on a kept connection


ABSOLUTE = UPGRADE.replace(b"/room?v=1", b"http://chat.example/room?v=1")


@pytest.mark.parametrize(
    ("before", "upgrade"),
    [(POST, UPGRADE), (GET, UPGRADE), (POST + GET + POST, UPGRADE), (POST, ABSOLUTE)],
)
async def test_later_upgrade_is_given_back_with_all_its_bytes(before: bytes, upgrade: bytes) -> None:
    async with http_port() as served, await served.connect() as stream:
        await stream.send_all(before + upgrade + b"\x81\x80rest")
        await served.until(lambda: bool(served.given_back))
        ((sock, received),) = served.given_back
        assert received == upgrade + b"\x81\x80rest"
        assert (served.front.statistics().open, served.front.statistics().given_back) == (0, 1)
        sock.send(b"ours again")
        while not (got := bytes(await stream.receive_some())).endswith(b"ours again"):
            assert got
        await stream.send_all(b"and theirs")
        await trio.lowlevel.wait_readable(sock)
        assert sock.recv(100) == b"and theirs"


async def test_upgrade_whose_head_comes_in_pieces_is_given_back() -> None:
    async with http_port() as served, await served.connect() as stream:
        await post(stream)
        for byte in UPGRADE:
            await stream.send_all(bytes([byte]))
        await served.until(lambda: bool(served.given_back))
        assert served.given_back[0][1] == UPGRADE


async def test_first_request_is_never_given_back() -> None:
    # The opening has handed it over; it would do so again, for ever.
    async with http_port() as served, await served.connect() as stream:
        await stream.send_all(UPGRADE)
        assert (await read_answer(stream))[0] == 400
        assert served.given_back == []


@pytest.mark.parametrize(
    "request_",
    [
        UPGRADE.replace(b"/room?v=1", b"/rooms"),
        ABSOLUTE.replace(b"/room?v=1", b"/rooms"),
        UPGRADE.replace(b"/room?v=1", b"/msg"),
        UPGRADE.replace(b"GET", b"PUT"),
        UPGRADE.replace(b"WebSocket\r", b"h2c\r"),
        GET.replace(b"/nothing", b"/room"),
    ],
)
async def test_nothing_else_is_given_back(request_: bytes) -> None:
    async with http_port() as served, await served.connect() as stream:
        await post(stream)
        await stream.send_all(request_)
        assert (await read_answer(stream))[0] in (400, 404, 405)
        await post(stream)
        assert served.given_back == []


# -- TLS


async def test_tls_socket_is_served_and_given_back_with_what_was_decrypted() -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("chat.example").configure_cert(server)
    authority.configure_trust(client)
    async with http_port(tls=server) as served, await served.connect() as transport:
        stream = trio.SSLStream(transport, client, server_hostname="chat.example", https_compatible=True)
        await post(stream)
        # The largest TLS record: what were not read of it now would never raise an event again.
        rest = bytes(16384 - len(GET + UPGRADE))
        await stream.send_all(GET + UPGRADE + rest)
        await served.until(lambda: bool(served.given_back))
        sock, received = served.given_back[0]
        assert received == UPGRADE + rest
        assert isinstance(sock, ssl.SSLSocket)
        sock.send(b"ours again")
        got = b""
        while not got.endswith(b"ours again"):
            got += bytes(await stream.receive_some())


async def test_tls_connection_ends_with_a_close_notify() -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("chat.example").configure_cert(server)
    authority.configure_trust(client)
    async with http_port(tls=server) as served, await served.connect() as transport:
        stream = trio.SSLStream(transport, client, server_hostname="chat.example")
        await stream.send_all(POST.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"))
        assert (await read_to_end(stream)).endswith(SUC)


# -- limits


async def test_connections_over_the_limit_are_turned_away_with_503() -> None:
    async with http_port(connections=2) as served:
        served.logic.gate = trio.Event()
        first, second, third = [await served.connect() for _ in range(3)]
        for stream in (first, second):
            await stream.send_all(POST)
        await served.until(lambda: served.logic.waiting == 2)
        async with first, second:
            async with third:
                status, headers, body = await read_answer(third)
                assert (status, headers["retry-after"], headers["connection"]) == (503, "5", "close")
                assert headers["access-control-allow-origin"] == "*"
                assert body == b'{"code":0,"msg":"too many connections, try again later"}'
            served.logic.gate.set()
            for stream in (first, second):
                assert (await read_answer(stream))[2] == SUC
            assert served.front.statistics().refused == 1


async def test_connection_that_has_waited_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SPARED_S", -1.0)
    async with http_port(connections=2) as served:
        first, second = await served.connect(), await served.connect()
        async with first, second:
            await post(first)
            await post(second)
            async with await served.connect() as third:
                await post(third)
                assert await read_to_end(first) == b""
                await post(second)
            statistics = served.front.statistics()
            assert (statistics.displaced, statistics.refused, statistics.timed_out) == (1, 0, {})


async def test_connection_that_has_only_just_come_is_spared() -> None:
    async with http_port(connections=1) as served, await served.connect() as first:
        await served.until(lambda: served.front.statistics().open == 1)
        async with await served.connect() as second:
            assert (await read_answer(second))[0] == 503
        await post(first)


# -- failures and the end


def front_of(app: Callable[..., Any]) -> tuple[HttpFront, CapturingLogger]:
    log = CapturingLogger()
    return HttpFront(app, Http(), WebSocket(), log), log


async def exchange(front: HttpFront, sent: bytes) -> bytes:
    near, far = socket.socketpair()
    near.setblocking(False)
    async with (
        trio.open_nursery() as nursery,
        trio.SocketStream(trio.socket.from_stdlib_socket(far)) as stream,
    ):
        nursery.start_soon(front.serve, near, sent)
        return await read_to_end(stream)


async def test_application_that_raises_is_counted_and_logged() -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    front, log = front_of(fail)
    with trio.fail_after(5):
        assert (await exchange(front, GET)).startswith(b"HTTP/1.1 500 ")
    assert front.statistics().failures == {"ZeroDivisionError": 1}
    assert [call.method_name for call in log.calls] == ["error"]


async def test_connection_that_raises_is_closed_counted_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    front, log = front_of(lambda *_: None)
    monkeypatch.setattr(http._Connection, "request_received", fail)
    with trio.fail_after(5):
        assert await exchange(front, GET) == b""
    assert front.statistics().failures == {"ZeroDivisionError": 1}
    assert [call.method_name for call in log.calls] == ["error"]


async def test_failure_while_being_cancelled_stays_in_here_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail_when_cancelled(_: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

    monkeypatch.setattr(http._Connection, "run", fail_when_cancelled)
    front, _ = front_of(lambda *_: None)
    near, far = socket.socketpair()
    near.setblocking(False)
    with far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.serve, near, GET)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert near.fileno() == -1
    assert front.statistics().failures == {"ZeroDivisionError": 1}


@pytest.mark.parametrize("sent", [b"", POST[:40], POST[:-3], POST, POST + GET[:10]])
async def test_cancelling_at_any_stage_leaves_nothing(sent: bytes) -> None:
    async with http_port() as served:
        served.logic.gate = trio.Event()
        stream = await served.connect()
        if sent:
            await stream.send_all(sent)
        await served.until(lambda: served.front.statistics().open == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        began = trio.current_time()
        served.nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1
    await stream.aclose()
    assert served.posting.statistics().replays.running == 0


async def test_draining_finishes_what_is_under_way_and_takes_no_further_request() -> None:
    async with http_port() as served:
        served.logic.gate = trio.Event()
        idle, busy = await served.connect(), await served.connect()
        async with idle, busy:
            await idle.send_all(GET)
            await read_answer(idle)
            await busy.send_all(POST)
            await served.until(lambda: served.logic.waiting == 1)
            served.front.drain()
            assert await read_to_end(idle) == b""
            served.logic.gate.set()
            assert (await read_to_end(busy)).endswith(SUC)
        await served.until(lambda: served.front.statistics().open == 0)


@pytest.mark.parametrize("ticks", range(8))
async def test_request_that_was_read_before_the_drain_is_answered(ticks: int) -> None:
    """It counted as idle until its head was parsed, and was closed without a word or a number."""
    async with http_port() as served:
        near, far = socket.socketpair()
        near.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(far)) as stream:
            served.nursery.start_soon(served.front.serve, near, POST)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            served.front.drain()
            assert (await read_to_end(stream)).endswith(SUC)


@pytest.mark.parametrize("before", [b"", POST])
@pytest.mark.parametrize("size", [1, 30, len(POST) - 1])
async def test_request_whose_head_has_begun_before_the_drain_is_answered(before: bytes, size: int) -> None:
    async with http_port() as served, await served.connect() as stream:
        await stream.send_all(before + POST[:size])
        if before:
            await read_answer(stream)
        await served.until(lambda: served.front.statistics().open == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        served.front.drain()
        await stream.send_all(POST[size:])
        assert (await read_to_end(stream)).endswith(SUC)
    assert len(served.logic.published) == (2 if before else 1)


async def test_requests_that_came_together_before_the_drain_are_all_answered() -> None:
    async with http_port() as served, await served.connect() as stream:
        served.logic.gate = trio.Event()
        await stream.send_all(POST * 3)
        await served.until(lambda: served.logic.waiting == 1)
        served.front.drain()
        served.logic.gate.set()
        assert (await read_to_end(stream)).count(SUC) == 3


@pytest.mark.parametrize(("before", "stage"), [(b"", "head"), (POST, "idle")])
async def test_head_that_does_not_come_to_its_end_does_not_hold_up_a_drain_for_long(
    before: bytes, stage: str
) -> None:
    async with http_port(head_timeout_s=0.2) as served, await served.connect() as stream:
        await stream.send_all(before + POST[:30])
        if before:
            await read_answer(stream)
        await served.until(lambda: served.front.statistics().open == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        served.front.drain()
        assert await read_to_end(stream) == b""
        await served.until(lambda: served.front.statistics().timed_out == {stage: 1})


async def test_hundreds_of_clients_that_come_and_go_leave_nothing() -> None:
    async def come_and_go(served: Served, number: int) -> None:
        stream = await served.connect()
        async with stream:
            await stream.send_all(POST[: number % len(POST)] or b"\x00")

    async with http_port() as served:
        for start in range(0, 400, 50):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 50):
                    nursery.start_soon(come_and_go, served, number)
        await served.until(lambda: served.front.statistics().taken == 400)
        await served.until(lambda: served.front.statistics().open == 0)
        assert served.front.statistics().failures == {}
        async with await served.connect() as stream:
            await post(stream)
