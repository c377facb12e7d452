"""Clients that others wrote: `websockets`, aiohttp, picows, trio-websocket; and the golden bytes through one.

Those that need asyncio run as child processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from conn_server.rooms import Rooms
from conn_server.session import Rules
from schema.access import BAD_SEGMENTS, BAD_SIGNATURE, EXPIRED, INVALID, NOT_YET_VALID
from schema.envelope import HEARTBEAT, PONG, encode_ack
from schema.message import Item, Level, Push
from tests.conn_server.conftest import Tls
from tests.conn_server.serving import SUC, Served, message, serving, sign_in
from tests.vectors import Vector, load

pytestmark = pytest.mark.usefixtures("no_leaks")

PEER = "tests/peers/websocket_peer.py"
LIBRARIES = ["websockets", "aiohttp", "picows"]
BIG = bytes(range(256)) * 230


@dataclass
class Told:
    """A client that does what it is told."""

    process: trio.Process

    async def tell(self, *step: object) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(step).encode() + b"\n")

    async def ask(self, *step: object) -> object:
        await self.tell(*step)
        assert self.process.stdout is not None
        line = b""
        with trio.fail_after(15):
            while not line.endswith(b"\n"):
                data = await self.process.stdout.receive_some()
                assert data, "the peer has failed"
                line += data
        return json.loads(line)

    async def say(self, payload: bytes) -> None:
        await self.tell("binary", payload.hex())

    async def hear(self) -> bytes:
        heard = await self.ask("hear")
        assert isinstance(heard, str)
        return bytes.fromhex(heard)


@asynccontextmanager
async def open_peer(library: str, served: Served, tls: Tls | None) -> AsyncIterator[Told]:
    host, port = served.address
    url = [f"wss://localhost:{port}/room", str(tls.certificates.ca)] if tls else [f"ws://{host}:{port}/room"]
    process = await trio.lowlevel.open_process(
        [sys.executable, PEER, library, *url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Told(process)
        assert process.stdin is not None
        await process.stdin.aclose()
        with trio.fail_after(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("library", LIBRARIES)
async def test_client_of_another_library_is_served(library: str, is_tls: bool, tls: Tls) -> None:
    used = tls if is_tls else None
    async with serving(**tls.settings if is_tls else {}) as served, open_peer(library, served, used) as peer:
        await peer.say(sign_in("lobby"))
        assert await peer.hear() == SUC
        await peer.say(HEARTBEAT)
        assert await peer.hear() == PONG
        await peer.tell("text", HEARTBEAT.decode())
        assert await peer.hear() == PONG
        assert await peer.ask("ping", b"are you there".hex()) == b"are you there".hex()
        for number, size in enumerate((1, 60, 110, 200, 5000, len(BIG)), 1):
            await peer.say(message("lobby", BIG[:size], number))
            assert await peer.hear() == encode_ack(0, "suc", number)  # type: ignore[arg-type]
            assert served.logic.published[-1].data == BIG[:size]
        if library != "aiohttp":
            request = message("lobby", b"in parts" * 900, 9)
            await peer.tell(
                "parts", *(part.hex() for part in (request[:3], b"", request[3:5000], request[5000:]))
            )
            assert await peer.hear() == encode_ack(0, "suc", 9)  # type: ignore[arg-type]
            assert served.logic.published[-1].data == b"in parts" * 900
        push = Push("lobby", Level.NORMAL, len(BIG).to_bytes(4, "little") + BIG)
        await served.port.broadcaster.broadcast(push)
        assert BIG in await peer.hear()
        assert await peer.ask("close", 1000, "done") == 1000
        await served.until(lambda: served.is_empty)
        assert served.wire.statistics().closed == {1000: 1}


@pytest.mark.parametrize("library", LIBRARIES)
async def test_code_and_reason_of_the_server_reach_the_client(library: str) -> None:
    async with serving() as served, open_peer(library, served, None) as peer:
        await peer.say(HEARTBEAT)
        await peer.hear()
        served.sweep(5.1)
        assert await peer.ask("closed") == [4001, "no sign-in in time"]


async def test_frame_over_the_limit_is_1009_to_another_library() -> None:
    async with serving() as served, open_peer("websockets", served, None) as peer:
        await peer.say(bytes(70_000))
        assert await peer.ask("closed") == [1009, "message too big"]


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_trio_websocket_is_served(is_tls: bool, tls: Tls) -> None:
    async with serving(**tls.settings if is_tls else {}) as served:
        tcp = await trio.open_tcp_stream(*served.address)
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = tcp
        if is_tls:
            stream = trio.SSLStream(tcp, tls.client, server_hostname="localhost", https_compatible=True)
        async with trio.open_nursery() as nursery:
            peer = await wrap_client_stream(nursery, stream, "localhost", "/room")
            await peer.send_message(sign_in("lobby"))
            assert await peer.get_message() == SUC
            await peer.send_message(HEARTBEAT.decode())
            assert await peer.get_message() == PONG
            await peer.ping(b"1")
            await peer.send_message(message("lobby", BIG, 1))
            assert await peer.get_message() == encode_ack(0, "suc", 1)  # type: ignore[arg-type]
            served.sweep(601)
            with pytest.raises(ConnectionClosed) as caught:
                await peer.get_message()
            assert caught.value.reason is not None
            assert caught.value.reason.code == 4002
            await trio.aclose_forcefully(stream)


# -- the golden bytes, with the `websockets` library

REQUESTS = {vector["name"]: bytes.fromhex(vector["hex"]) for vector in load("envelope", "requests")}
REPLIES = {vector["name"]: bytes.fromhex(vector["hex"]) for vector in load("envelope", "replies")}
Play = Callable[[Served, Told], Awaitable[None]]


def push_of(vector: Vector) -> Push:
    found = vector["fields"]["push"]
    items = tuple(
        Item(item["sender"], item["sent_at_ms"], bytes.fromhex(item["id_hex"]))
        for item in found["items"] or ()
    )
    return Push(found["room"], Level(found["level"]), bytes.fromhex(found["body_hex"]), items)


async def expect(peer: Told, request: bytes, reply: str) -> None:
    await peer.say(request)
    assert await peer.hear() == REPLIES[reply], reply


async def test_golden_bytes_go_over_a_real_websocket() -> None:
    seen: set[str] = set()

    async with serving(now=1_700_000_000.123, rules=Rules(publish_interval_s=3600.0)) as served:
        async with open_peer("websockets", served, None) as peer:

            async def check(request: bytes, reply: str) -> None:
                await expect(peer, request, reply)
                seen.add(reply)

            await check(HEARTBEAT, "not signed in")
            await check(REQUESTS["heartbeat"] + b"\x50\x09", "not signed in, id 9")
            for text in (EXPIRED, INVALID, BAD_SIGNATURE, BAD_SEGMENTS, NOT_YET_VALID):
                served.logic.refusal = text
                await check(sign_in("lobby", "bad"), f"refused: {text}")
            await check(REQUESTS["sign-in, Go era"], "signed in, Go era")
            await check(REQUESTS["heartbeat"], "pong")
            await check(REQUESTS["heartbeat with id 1"], "pong, id 1")
            fill(served, "lobby", 3)
            await check(REQUESTS["members"], "3 members")
            fill(served, "lobby", 12345)
            await check(REQUESTS["members"] + b"\x50\x02", "12345 members, id 2")
            fill(served, "lobby", 1)
            for vector in load("envelope", "replies"):
                if "push" in vector["fields"] and not vector["fields"]["push"]["version"]:
                    await served.port.broadcaster.broadcast(push_of(vector))
                    assert await peer.hear() == REPLIES[vector["name"]]
                    seen.add(vector["name"])
            await peer.say(REQUESTS["message"])
            await served.until(lambda: served.logic.published)
            assert served.logic.published[0].data == b'{"type":1, "content":"test"}'

        async with open_peer("websockets", served, None) as peer:
            fill(served, "聊天室 🎉", 2)
            await check(REQUESTS["sign-in, version 1"], "signed in, version 1")
            await peer.say(sign_in("lobby", version=1))
            await peer.hear()
            for vector in load("envelope", "replies"):
                if "push" in vector["fields"] and vector["fields"]["push"]["version"]:
                    await served.port.broadcaster.broadcast(push_of(vector))
                    assert await peer.hear() == REPLIES[vector["name"]]
                    seen.add(vector["name"])
            await peer.say(sign_in("大厅", version=1))
            await peer.hear()
            await check(REQUESTS["message, IMPORTANT, with id 300"], "ack")
            assert served.logic.published[1].data == b"\x00\xff\xfe"
            await check(message("大厅", b"again", 301), "ack, too fast")
    assert seen == set(REPLIES)


def fill(served: Served, room: str, members: int) -> None:
    """Let `room` have so many members, by made-up ones."""
    rooms = cast("Rooms[object]", served.node.rooms)
    for made_up in [one for one in rooms.members(room) if isinstance(one, int)]:
        rooms.leave(made_up, room)
    for number in range(members - len(rooms.members(room))):
        rooms.join(number, room, 0)
