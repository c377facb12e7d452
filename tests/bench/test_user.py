from __future__ import annotations

from time import monotonic_ns

import pytest
import trio

from bench.engine import Engine
from bench.user import State, User
from schema.access import Code
from tests.bench.raw import drive
from tests.bench.running import open_engine
from tests.clients.fake_server import FakeServer, open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")


async def opened(engine: Engine, user: User) -> None:
    user.start(monotonic_ns())
    await drive(engine.poller, lambda: not engine.opening)


async def test_user_signs_in_and_leaves() -> None:
    async with open_fake_server() as server, open_engine(server.room_url) as engine:
        user = User(engine, 3, engine.room(0))
        await opened(engine, user)
        assert engine.signed_in == 1
        assert server.sign_ins == [("token-of-4", "bench-7-0", 1)]
        user.leave()
        await drive(engine.poller, lambda: not engine.leaving)
        assert user.state is State.ENDED
        await server.wait_for_members(0)
        assert engine.outcome().problems == {}
        assert len(engine.span("open")) == 1


async def test_refused_user_is_counted_with_the_reason() -> None:
    server = FakeServer(refuse={"bench-7-0": (Code.FORBIDDEN, "not you")})
    async with open_fake_server(server), open_engine(server.room_url) as engine:
        user = User(engine, 0, engine.room(0))
        await opened(engine, user)
    assert user.state is State.ENDED
    assert engine.outcome().problems == {"not signed in: 403 not you": 1}


async def test_user_whom_the_server_closes_is_counted_with_the_code() -> None:
    async with open_fake_server() as server, open_engine(server.room_url) as engine:
        user = User(engine, 0, engine.room(0))
        await opened(engine, user)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.close_all, 4008)
            await drive(engine.poller, lambda: user.state is State.ENDED)
        assert engine.outcome().problems == {"ended: closed with 4008": 1}
        assert engine.signed_in == 0


async def test_nobody_connects_once_the_engine_is_closed() -> None:
    async with open_fake_server() as server:
        async with open_engine(server.room_url) as engine:
            user = User(engine, 0, engine.room(0))
        user.start(0)
        assert user.state is State.NEW
        assert engine.opening == 0
