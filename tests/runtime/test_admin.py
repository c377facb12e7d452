from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
from structlog.testing import CapturingLogger

from runtime import admin
from runtime.admin import Readiness, serve_admin
from runtime.metrics import Metrics
from runtime.units import Address, split_address

pytestmark = pytest.mark.usefixtures("no_leaks")

FREE = Address("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Served:
    address: Address
    readiness: Readiness
    metrics: Metrics
    log: CapturingLogger


@asynccontextmanager
async def admin_port(address: Address = FREE) -> AsyncIterator[Served]:
    readiness, metrics, log = Readiness("queue", "logic"), Metrics(), CapturingLogger()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(serve_admin, address, readiness, metrics, log)
            yield Served(split_address(bound), readiness, metrics, log)
            nursery.cancel_scope.cancel()


async def read_to_end(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(chunk) async for chunk in stream])


async def get(address: Address, path: str) -> Answer:
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await read_to_end(stream)).partition(b"\r\n\r\n")
    return Answer(int(head.split()[1]), head.decode(), body)


async def test_livez_answers_while_the_loop_runs() -> None:
    async with admin_port() as served:
        answer = await get(served.address, "/livez")
        assert (answer.status, answer.body) == (200, b"ok\n")


async def test_readyz_names_what_is_missing() -> None:
    async with admin_port() as served:
        answer = await get(served.address, "/readyz")
        assert answer.status == 503
        assert json.loads(answer.body) == {
            "ready": False,
            "reasons": {"queue": "not yet", "logic": "not yet"},
        }
        served.readiness.meet("queue")
        served.readiness.meet("logic")
        answer = await get(served.address, "/readyz")
        assert (answer.status, json.loads(answer.body)) == (200, {"ready": True, "reasons": {}})
        served.readiness.fail("serving", "draining")
        answer = await get(served.address, "/readyz")
        assert (answer.status, json.loads(answer.body)["reasons"]) == (503, {"serving": "draining"})


async def test_metrics_are_scraped_over_a_real_socket() -> None:
    async with admin_port() as served:
        served.metrics.register("rooms", lambda: {"joined": 7})
        answer = await get(served.address, "/metrics")
        assert answer.status == 200
        assert "text/plain; version=" in answer.head
        assert b"roomcast_rooms_joined_total 7.0\n" in answer.body
        assert b"roomcast_admin_connections_open 1.0\n" in answer.body


async def test_other_paths_and_methods_are_refused() -> None:
    async with admin_port() as served:
        assert (await get(served.address, "/")).status == 404
        assert (await get(served.address, "/static/x")).status == 404


async def test_connection_is_kept_for_the_next_request() -> None:
    async with admin_port() as served, await trio.open_tcp_stream(*served.address) as stream:
        for _ in range(3):
            await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok\n"):
                answer += bytes(await stream.receive_some())


@pytest.mark.parametrize("sent", [b"", b"GET /metr", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_connection_that_says_nothing_more_is_closed(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "CONNECTION_LIFETIME_S", 0.2)
    async with admin_port() as served, await trio.open_tcp_stream(*served.address) as stream:
        await stream.send_all(sent)
        with suppress(trio.BrokenResourceError):  # which way it is closed does not matter
            await read_to_end(stream)


async def test_garbage_ends_its_connection_alone() -> None:
    async with admin_port() as served:
        async with await trio.open_tcp_stream(*served.address) as stream:
            await stream.send_all(b"\x00\xff\r\n\r\n\r\n")
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400")
        assert (await get(served.address, "/livez")).status == 200


async def test_connections_over_the_limit_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MAX_CONNECTIONS", 1)
    async with admin_port() as served, await trio.open_tcp_stream(*served.address) as first:
        await first.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await first.receive_some()
        async with await trio.open_tcp_stream(*served.address) as second:
            assert await second.receive_some() == b""
        await first.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"roomcast_admin_connections_refused_total 1.0\n" in await read_to_end(first)


async def test_port_that_is_taken_is_replaced_with_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address("127.0.0.1", other.getsockname()[1])
        async with admin_port(taken) as served:
            assert served.address.port not in (0, taken.port)
            assert (await get(served.address, "/livez")).status == 200
            (call,) = served.log.calls
            assert call.method_name == "warning"
            assert call.kwargs == {"address": f"127.0.0.1:{taken.port}"}


async def test_it_may_be_bound_to_all_addresses() -> None:
    async with admin_port(Address("", 0)) as served:
        assert (await get(Address("localhost", served.address.port), "/livez")).status == 200


async def test_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        await serve_admin(Address("192.0.2.1", 7000), Readiness(), Metrics(), CapturingLogger())


async def test_cancelling_does_not_wait_for_a_peer_that_keeps_its_connection() -> None:
    async with trio.open_nursery() as clients:
        async with admin_port() as served:
            stream = await trio.open_tcp_stream(*served.address)
            await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some()
        await stream.aclose()
        clients.cancel_scope.cancel()
