from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic_ns

import pytest
import trio

from bench.engine import Engine
from bench.plan import Window
from bench.poller import NEVER
from bench.poster import Poster
from bench.speaker import Speaking
from tests.bench.raw import Script, drive, open_script
from tests.bench.running import open_engine

pytestmark = pytest.mark.usefixtures("no_leaks")
TAKEN = b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"code":1,"msg":"suc"}'


@asynccontextmanager
async def open_poster(script: Script) -> AsyncIterator[tuple[Engine, Poster, Speaking]]:
    async with (
        open_script(script) as port,
        open_engine(f"ws://127.0.0.1:{port}/room", rate=1.0, rooms=2) as engine,
    ):
        speaking = Speaking(engine)
        speaking.window = Window(0, 0, NEVER)
        poster = Poster(engine, 0, speaking)
        yield engine, poster, speaking
        poster.finish()


async def test_requests_follow_each_other_on_one_connection_to_the_rooms_in_turn() -> None:
    heads: list[bytes] = []

    async def script(stream: trio.SocketStream) -> None:
        async for data in stream:
            heads.append(bytes(data))
            for byte in TAKEN:
                await stream.send_all(bytes((byte,)))

    async with open_poster(script) as (engine, poster, speaking):
        for _ in range(3):
            poster.act(monotonic_ns())
        await drive(engine.poller, engine.is_answered)
    assert (speaking.messages, speaking.accepted, speaking.refused) == (3, 3, 0)
    assert [head.partition(b"room_id=")[2].partition(b"&")[0] for head in heads] == [
        b"bench-7-0",
        b"bench-7-1",
        b"bench-7-0",
    ]
    assert b"Authorization: Bearer token-of-1\r\n" in heads[0]
    assert engine.problems == {}


async def test_refusal_is_counted_with_what_the_server_says() -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b'HTTP/1.1 429 Slow\r\nContent-Length: 25\r\n\r\n{"code":0,"msg":"slowly"} ')
        await stream.receive_some()

    async with open_poster(script) as (engine, poster, speaking):
        poster.act(monotonic_ns())
        await drive(engine.poller, engine.is_answered)
    assert (speaking.accepted, speaking.refused) == (0, 1)
    assert engine.problems == {"POST /msg: 429 slowly": 1}


async def test_rate_counts_what_was_accepted_in_time_and_latency_what_was_due_in_it() -> None:
    async def script(stream: trio.SocketStream) -> None:
        async for _ in stream:
            await stream.send_all(TAKEN)

    async with open_poster(script) as (engine, poster, speaking):
        speaking.window = Window(0, 0, monotonic_ns())  # over before the answer comes
        poster.act(0)
        await drive(engine.poller, engine.is_answered)
        assert (speaking.accepted, len(speaking.ack)) == (0, 1)
        speaking.window = Window(0, monotonic_ns(), NEVER)
        poster.act(0)
        await drive(engine.poller, engine.is_answered)
        assert (speaking.accepted, len(speaking.ack)) == (1, 1)


async def test_request_whose_connection_ends_stays_unanswered_and_the_next_ones_go_on() -> None:
    connections = 0

    async def script(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await stream.receive_some()
        if connections > 1:
            await stream.send_all(TAKEN)
            await stream.receive_some()

    async with open_poster(script) as (engine, poster, speaking):
        for _ in range(2):
            poster.act(monotonic_ns())
        await drive(engine.poller, lambda: speaking.accepted == 1)
        assert engine.unanswered == 1
    assert connections == 2
    assert engine.problems == {"POST /msg: closed by the server": 1}
