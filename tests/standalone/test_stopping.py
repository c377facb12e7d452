"""How the whole system starts and stops: drained, cancelled at any moment, or never really started."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import pytest
import trio
from structlog.testing import capture_logs
from wsproto.utilities import ProtocolError

from clients.python import ClientError, Closed, PublishRefused
from logic_server.logic import Logic
from runtime.failures import setup_problems
from runtime.lifecycle import Drain
from runtime.settings import load
from runtime.units import format_address
from schema.access import Code, Grant, Refused, Unavailable
from schema.closing import CloseCode, draining_reason
from schema.message import Level, Message
from standalone.app import Gate, make_tokens, serve
from standalone.settings import StandaloneSettings
from tests.conftest import OPEN_FILES
from tests.conn_server.serving import sign_in
from tests.standalone.running import (
    DEADLINE_S,
    LOG,
    Running,
    crowd,
    hear,
    running,
    settings_with,
    token_of,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

BROKEN = (
    *(ClientError, httpx2.TransportError, OSError, ProtocolError, AssertionError),
    *(trio.BrokenResourceError, trio.ClosedResourceError),
)
FAREWELL = Closed(CloseCode.GOING_AWAY, draining_reason(2000))


async def test_drain_delivers_what_was_taken_and_then_sends_everybody_away() -> None:
    async with running() as system, crowd(system, 30, 2) as clients:
        for number in range(60):
            await clients[number % 30].publish(b"%d" % number)
        system.drain.start()
        for client in clients:
            with trio.fail_after(DEADLINE_S):
                assert await client.wait_closed() == FAREWELL
        for place, client in enumerate(clients):
            heard = [int(received.data) for received in await hear(client, 30)]
            assert heard == list(range(place % 2, 60, 2))
        with trio.fail_after(DEADLINE_S):
            await system.ended.wait()
        assert trio.current_time() < system.drain.deadline


async def test_drain_ends_at_its_deadline_whatever_clients_do() -> None:
    async with running(conn__drain__timeout="500ms", conn__websocket__closeTimeout="60s") as system:
        silent = await system.connect()
        await silent.say(sign_in("lobby", token_of("silent")))
        system.drain.start()
        with trio.fail_after(2):
            await system.ended.wait()
        await silent.aclose()


async def test_what_is_being_stored_when_the_drain_begins_is_delivered_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its sender was told that it was taken, and the process ended with it in the queue."""
    begun, release, publish = trio.Event(), trio.Event(), Logic.publish

    async def publish_later(self: Logic, message: Message) -> None:
        begun.set()
        await release.wait()
        await publish(self, message)

    monkeypatch.setattr(Logic, "publish", publish_later)
    async with running() as system, crowd(system, 2, 1) as clients, trio.open_nursery() as nursery:
        nursery.start_soon(clients[0].publish, b"on its way")
        await begun.wait()
        system.drain.start()
        # Meanwhile it is alive, not ready, and takes nothing more.
        assert await system.ask("/livez") == (200, "ok\n")
        status, text = await system.ask("/readyz")
        assert (status, json.loads(text)["reasons"]) == (503, {"drain": "draining"})
        with pytest.raises(PublishRefused) as caught:
            await clients[1].publish(b"too late")
        assert caught.value.code == Code.UNAVAILABLE
        assert [client.closed for client in clients] == [None, None]
        release.set()
        for client in clients:
            assert await client.wait_closed() == FAREWELL
            assert [received.data for received in await hear(client, 1)] == [b"on its way"]


async def test_gate_counts_what_is_under_way_and_closes_with_the_drain() -> None:
    class Slow:
        async def authenticate(self, token: str) -> Grant:
            return Grant(uid=1, user=token)

        async def publish(self, message: Message) -> None:
            await trio.sleep_forever()

    drain = Drain(1.0)
    gate = Gate(Slow(), drain)  # type: ignore[arg-type]
    said = Message("lobby", Level.NORMAL, b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.publish, said)
        await trio.testing.wait_all_tasks_blocked()
        assert gate.under_way == 1
        drain.start()
        with pytest.raises(Unavailable):
            await gate.publish(said)
        assert (await gate.authenticate("ann")).user == "ann"
        nursery.cancel_scope.cancel()
    assert gate.under_way == 0


# -- cancelled at any moment

STARTING = range(0, 60, 3)
SERVING = (*range(0, 40, 4), *range(40, 400, 40))


async def chat(system: Running, user: str) -> None:
    with suppress(*BROKEN):
        async with system.join(user, "lobby") as client:
            for number in range(10):
                await client.publish(b"%d" % number, Level(number % 2))
            await client.switch("other")
            await client.wait_closed()


async def post(system: Running) -> None:
    with suppress(*BROKEN):
        async with system.http("shop") as backend:
            for _ in range(5):
                await backend.post("/msg", data={"room_id": "lobby", "msg": "hello"})


async def look(system: Running) -> None:
    with suppress(*BROKEN):
        await system.numbers()


async def say_half(system: Running, data: bytes) -> None:
    with suppress(*BROKEN):
        async with await trio.open_tcp_stream(*system.address) as stream:
            await stream.send_all(data)
            await stream.receive_some()


async def live(system: Running) -> None:
    """Do what users, back ends and operators do, until the system is gone."""
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(chat, system, f"user {number}")
        nursery.start_soon(post, system)
        nursery.start_soon(look, system)
        nursery.start_soon(say_half, system, b"GET /room HT")
        nursery.start_soon(
            say_half, system, b"POST /msg HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nroom"
        )
        await system.ended.wait()
        nursery.cancel_scope.cancel()


def living() -> tuple[int, int]:
    """Count the tasks and open files that there are."""
    return trio.lowlevel.current_statistics().tasks_living, len(list(OPEN_FILES.iterdir()))


async def pass_checkpoints(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def test_cancelled_at_any_moment_of_its_start_it_leaves_nothing() -> None:
    before = living()
    started = 0
    for moment in STARTING:
        system = Running(settings_with(), Drain(5.0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.run)
            await pass_checkpoints(moment)
            system.scope.cancel()
            await system.ended.wait()
        assert living() == before, moment
        started += bool(system.where.http_url)
    assert started < len(STARTING)


@pytest.mark.parametrize("is_drained", [False, True], ids=["cancelled", "drained and cancelled"])
async def test_cancelled_at_any_moment_of_its_life_it_leaves_nothing(is_drained: bool) -> None:
    before = living()
    for moment in SERVING:
        async with running() as system, trio.open_nursery() as nursery:
            nursery.start_soon(live, system)
            if is_drained:
                await pass_checkpoints(50)
                system.drain.start()
            await pass_checkpoints(moment)
            system.scope.cancel()
            with trio.fail_after(DEADLINE_S):
                await system.ended.wait()
        assert living() == before, moment


# -- what keeps it from starting


@pytest.fixture
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield format_address(*listener.getsockname()[:2])


async def problems_of(**overrides: str | int) -> list[str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one, the next line says
        await serve(settings_with(**overrides), Drain(1.0), LOG)
    return setup_problems(caught.value) or [repr(caught.value)]


async def test_taken_client_port_is_said_in_one_line(taken_port: str) -> None:
    problems = await problems_of(conn__websocket__bind=taken_port)
    assert problems == [f"client port {taken_port}: Address already in use"]


async def test_certificate_that_is_not_there_is_said_in_one_line() -> None:
    files = {"conn__websocket__tlsCert": "/nowhere/cert.pem", "conn__websocket__tlsKey": "/nowhere/key.pem"}
    (problem,) = await problems_of(**files)
    assert "/nowhere/cert.pem" in problem


async def test_taken_admin_port_is_replaced_and_warned_about(taken_port: str) -> None:
    with capture_logs() as lines:
        async with running(conn__admin__bind=taken_port) as system:
            assert (await system.ask("/livez"))[0] == 200
            assert not system.where.admin_url.endswith(taken_port)
    assert [line["address"] for line in lines if line["log_level"] == "warning"] == [taken_port]


def test_secret_that_is_there_is_used_and_otherwise_one_is_made_up() -> None:
    given, other = make_tokens(settings_with(), LOG), make_tokens(settings_with(), LOG)
    assert other.verify(given.issue("ann", 1000.0), 1000.0).user == "ann"
    bare = load(StandaloneSettings, None, {}).settings
    with pytest.raises(Refused):
        make_tokens(bare, LOG).verify(make_tokens(bare, LOG).issue("ann", 1000.0), 1000.0)
