"""The names of hypercorn and quart-trio that we hook, and what they are hooked for."""

from __future__ import annotations

import inspect
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest
import trio
import trio.testing
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import TrioSingleTask

from runtime.http import HastyStream, HttpConnection, Leave, Stages, http_config

pytestmark = pytest.mark.usefixtures("no_leaks")

LONG = Stages(head_s=60, idle_s=60, request_s=60)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def answer_with_path(scope: Any, receive: Any, send: Any, *_: object) -> None:
    """Answer as quart-trio does: what hypercorn does after the answer runs in a scope that is cancelled."""
    with trio.CancelScope() as request:

        async def notice_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            request.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(notice_disconnect)
            headers = [(b"content-length", b"%d" % len(scope["path"]))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": scope["path"].encode()})
            nursery.cancel_scope.cancel()


@dataclass
class Pair:
    peer: trio.SocketStream
    connection: HttpConnection
    ended: trio.Event

    async def read(self, end: bytes) -> bytes:
        got = b""
        while not got.endswith(end):
            chunk = await self.peer.receive_some()
            assert chunk, f"ended after {got!r}"
            got += bytes(chunk)
        return got


@asynccontextmanager
async def connected(
    stages: Stages = LONG,
    app: Any = answer_with_path,
    kind: type[HttpConnection] = HttpConnection,
    write_timeout_s: float = 60,
) -> AsyncIterator[Pair]:
    near, far = trio.socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stream = HastyStream(trio.SocketStream(near), write_timeout_s)
    connection = kind(app, http_config(1024), stream, stages)
    ended = trio.Event()

    async def run() -> None:
        await connection.run()
        ended.set()

    with far, near, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield Pair(trio.SocketStream(far), connection, ended)
            nursery.cancel_scope.cancel()


# -- what we reach into: these fail when the dependency changes


def test_hooked_names_are_those_of_the_version_that_was_read() -> None:
    assert version("hypercorn") == "0.18.0"
    hooked = {
        TCPServer: ("__init__", "run", "protocol_send", "_read_data"),
        TrioSingleTask: ("restart", "stop"),
        H11Protocol: ("__init__", "_check_protocol", "_create_stream", "_send_error_response"),
    }
    for owner, names in hooked.items():
        for name in names:
            assert name in vars(owner), f"{owner.__name__}.{name}"


def test_hooked_signatures_are_as_they_were() -> None:
    def parameters(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    first, others = ["app", "config", "context", "task_group"], ["ssl", "client", "server", "send"]
    assert parameters(H11Protocol) == [*first, "connection_state", *others]
    assert parameters(H11Protocol._check_protocol) == ["self", "event"]
    assert parameters(H11Protocol._create_stream) == ["self", "request"]
    assert parameters(TCPServer) == ["app", "config", "context", "state", "stream"]
    wrapper = inspect.getsource(ProtocolWrapper.__init__)
    for name in [*first, "state", *others]:
        assert f"self.{name} = {name}" in wrapper


async def test_our_protocol_stands_where_hypercorns_stood() -> None:
    async with connected() as pair:
        await pair.peer.send_all(GET)
        await pair.read(b"/")
        inner = pair.connection.protocol.protocol
        assert type(inner).__name__ == "_PlainHttp"
        assert isinstance(inner, H11Protocol)
        assert inner.keep_alive_requests == pair.connection.requests == 1


# -- what they are hooked for


async def test_stages_follow_the_requests() -> None:
    async with connected(Stages(head_s=10, idle_s=20, request_s=30)) as pair:
        connection = pair.connection
        began = trio.current_time()
        assert (connection.stage, connection.is_idle) == ("head", True)
        assert connection.scope.deadline == pytest.approx(began + 10, abs=1)
        await pair.peer.send_all(GET)
        await pair.read(b"/")
        await trio.testing.wait_all_tasks_blocked()
        assert (connection.stage, connection.is_idle) == ("idle", True)
        assert connection.scope.deadline == pytest.approx(began + 20, abs=1)


async def test_request_under_way_has_the_deadline_of_a_request() -> None:
    async def sleep_for_ever(*_: object) -> None:
        await trio.sleep_forever()

    async with connected(Stages(head_s=10, idle_s=20, request_s=30), sleep_for_ever) as pair:
        await pair.peer.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert (pair.connection.stage, pair.connection.is_idle) == ("request", False)
        assert pair.connection.scope.deadline == pytest.approx(trio.current_time() + 30, abs=1)


@pytest.mark.parametrize(
    ("stages", "sent", "stage"),
    [
        pytest.param(Stages(0.1, 60, 60), b"", "head", id="silence"),
        pytest.param(Stages(0.1, 60, 60), GET[:-3], "head", id="half a head"),
        pytest.param(Stages(60, 0.1, 60), GET, "idle", id="idle"),
        pytest.param(Stages(60, 0.1, 60), GET + GET[:-3], "idle", id="half a second head"),
        pytest.param(Stages(60, 60, 0.1), GET[:-2] + b"Content-Length: 9\r\n\r\n", "request", id="no body"),
    ],
)
async def test_every_stage_has_its_deadline(stages: Stages, sent: bytes, stage: str) -> None:
    async def want_body(scope: Any, receive: Any, send: Any, *rest: object) -> None:
        if any(name == b"content-length" for name, _ in scope["headers"]):
            await trio.sleep_forever()
        await answer_with_path(scope, receive, send)

    async with connected(stages, want_body) as pair:
        await pair.peer.send_all(sent)
        await pair.ended.wait()
        assert pair.connection.scope.cancelled_caught
        assert pair.connection.stage == stage


async def test_deadline_of_a_second_idle_stage_holds_as_well() -> None:
    # The task of a request, which quart-trio cancels, used to arm the timer again.
    async with connected(Stages(60, 0.2, 60)) as pair:
        for _ in range(3):
            await pair.peer.send_all(GET)
            await pair.read(b"/")
        await pair.ended.wait()
        assert pair.connection.scope.cancelled_caught


async def test_connection_close_closes_although_the_request_is_cancelled_after_its_answer() -> None:
    async with connected() as pair:
        await pair.peer.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = b"".join([bytes(chunk) async for chunk in pair.peer])
        assert got.endswith(b"\r\n\r\n/")
        await pair.ended.wait()


async def test_peer_that_does_not_read_its_answer_ends_the_connection() -> None:
    async def answer_much(scope: Any, receive: Any, send: Any, *_: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (8 << 20)})

    async with connected(app=answer_much, write_timeout_s=0.1) as pair:
        await pair.peer.send_all(GET)
        await pair.ended.wait()


async def test_cancelling_does_not_wait_for_a_write() -> None:
    async def answer_much(scope: Any, receive: Any, send: Any, *_: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (8 << 20)})

    async with connected(app=answer_much) as pair:
        await pair.peer.send_all(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        pair.connection.scope.cancel()
        with trio.fail_after(10):
            await pair.ended.wait()


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", id="h2c"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            id="websocket",
        ),
    ],
)
async def test_upgrade_is_ignored(request_bytes: bytes) -> None:
    async with connected() as pair:
        await pair.peer.send_all(request_bytes)
        assert (await pair.read(b"\r\n\r\n/")).startswith(b"HTTP/1.1 200")
        await pair.peer.send_all(GET)
        assert (await pair.read(b"\r\n\r\n/")).startswith(b"HTTP/1.1 200")


async def test_http2_preface_is_no_way_in() -> None:
    async with connected() as pair:
        await pair.peer.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        got = b"".join([bytes(chunk) async for chunk in pair.peer])
        assert got.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
async def test_head_over_the_limit_is_refused_whole_or_not(end: bytes) -> None:
    async with connected() as pair:
        await pair.peer.send_all(GET[:-2] + b"X: " + b"x" * 1100 + end)
        got = b"".join([bytes(chunk) async for chunk in pair.peer])
        assert got.startswith(b"HTTP/1.1 431 ")
        await pair.ended.wait()


async def test_connection_is_left_with_what_came_after_the_head() -> None:
    class Leaving(HttpConnection):
        left: tuple[bytes, bytes] | None = None

        def request_received(self, request: Any, rest: bytes) -> None:
            if request.target == b"/leave":
                self.left = (request.target, rest)
                raise Leave

    async with connected(kind=Leaving) as pair:
        await pair.peer.send_all(GET + b"GET /leave HTTP/1.1\r\nHost: x\r\n\r\nrest")
        await pair.ended.wait()
        assert isinstance(pair.connection, Leaving)
        assert pair.connection.left == (b"/leave", b"rest")
        await pair.connection.stream.send_all(b"not closed")
        await pair.read(b"not closed")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with connected() as pair:
        paths = [b"/%d" % number for number in range(20)]
        await pair.peer.send_all(b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths))
        got = await pair.read(b"/19")
        assert [answer.rpartition(b"\r\n\r\n")[2] for answer in got.split(b"HTTP/1.1 200")[1:]] == paths


async def test_write_to_a_peer_that_does_not_read_has_a_deadline_even_when_shielded() -> None:
    near, far = trio.socket.socketpair()
    with far, trio.fail_after(5):
        stream = HastyStream(trio.SocketStream(near), write_timeout_s=0.1)
        with trio.CancelScope(shield=True), pytest.raises(trio.BrokenResourceError, match="does not read"):
            await stream.send_all(b"x" * (16 << 20))
        assert near.fileno() == -1
