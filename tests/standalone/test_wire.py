"""Part 1 of docs/wire.md byte for byte, as a Go-era client sees it.

The peer is the websockets library: its protocol, on a stream of ours.  HTTP is spoken by httpx2.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
import pytest
import trio
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.standalone.running import DEADLINE_S, KEY, Running, running, token_of

pytestmark = pytest.mark.usefixtures("no_leaks")

NOT_SIGNED_IN = bytes.fromhex("120d08641209e8afb7e799bbe5bd95")
SUC = bytes.fromhex("12051203737563")
HEARTBEAT, PONG = bytes.fromhex("0802"), bytes.fromhex("08021204706f6e67")
MEMBERS = bytes.fromhex("0804")


class Browser:
    """A Go-era client: the websockets library, and bytes."""

    def __init__(self, stream: trio.SocketStream, url: str) -> None:
        self._stream = stream
        self._protocol = ClientProtocol(parse_uri(url))
        self._events: list[object] = []

    async def upgrade(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        await self._event()
        assert self._protocol.state is State.OPEN
        assert self._protocol.handshake_exc is None

    async def say(self, payload: bytes, *, as_text: bool = False) -> None:
        (self._protocol.send_text if as_text else self._protocol.send_binary)(payload)
        await self._flush()

    async def hear(self) -> bytes:
        """Return the next message; the server's are binary and whole."""
        frame = await self._event()
        assert isinstance(frame, Frame)
        assert (frame.opcode, frame.fin) == (Opcode.BINARY, True)
        return bytes(frame.data)

    async def ping(self, payload: bytes) -> bytes:
        self._protocol.send_ping(payload)
        frame = await self._event()
        assert isinstance(frame, Frame)
        assert frame.opcode is Opcode.PONG
        return bytes(frame.data)

    async def closed(self) -> int:
        """Wait for the server's close frame; return its code."""
        frame = await self._event()
        assert isinstance(frame, Frame)
        assert frame.opcode is Opcode.CLOSE
        return Close.parse(frame.data).code

    async def _event(self) -> object:
        with trio.fail_after(DEADLINE_S):
            await self._flush()
            while not self._events:
                self._protocol.receive_data(await self._stream.receive_some())
                self._events += self._protocol.events_received()
                await self._flush()
        return self._events.pop(0)

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self._stream.send_all(data)


@asynccontextmanager
async def browsing(system: Running, path: str = "/room") -> AsyncIterator[Browser]:
    async with await trio.open_tcp_stream(*system.address) as stream:
        browser = Browser(stream, system.where.websocket_url.replace("/room", path))
        await browser.upgrade()
        yield browser


def field(number: int, data: bytes) -> bytes:
    """Encode one length-delimited field of protobuf, up to 127 bytes of it or two bytes of length."""
    size = len(data)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    return bytes([number << 3 | 2]) + length + data


def sign_in(token: str, room: str) -> bytes:
    return b"\x08\x01" + field(2, field(1, token.encode()) + field(2, room.encode()))


def publish(room: str, data: bytes, *, important: bool = False) -> bytes:
    return b"\x08\x03" + field(2, _broadcast(room, data, important))


def push(room: str, *texts: bytes, important: bool = False) -> bytes:
    body = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return b"\x08\x03" + field(2, _broadcast(room, body, important))


def _broadcast(room: str, data: bytes, important: bool) -> bytes:
    return field(1, room.encode()) + (b"\x10\x01" if important else b"") + field(3, data)


def refused(text: str) -> bytes:
    return field(2, b"\x08\x64" + field(2, f"rpc error: code = Unknown desc = {text}".encode()))


async def test_go_era_client_gets_the_bytes_of_the_go_system() -> None:
    async with running() as system, browsing(system) as ann, browsing(system, "/room?from=app") as bob:
        for early in (HEARTBEAT, MEMBERS, publish("a", b"x"), b""):
            await ann.say(early)
            assert await ann.hear() == NOT_SIGNED_IN
        await ann.say(sign_in("no token", "a"))
        assert await ann.hear() == refused("token contains an invalid number of segments")
        await ann.say(sign_in(token_of("7"), "a"))
        assert await ann.hear() == SUC
        await ann.say(HEARTBEAT)
        assert await ann.hear() == PONG
        await bob.say(sign_in(token_of("8"), "a"))
        assert await bob.hear() == SUC
        await bob.say(HEARTBEAT, as_text=True)
        assert await bob.hear() == PONG
        await bob.say(MEMBERS)
        assert await bob.hear() == bytes.fromhex("0804120132")
        assert await bob.ping(b"there?") == b"there?"
        # No answer to a message but the push, which its sender gets as well.
        await ann.say(publish("a", b"hello"))
        for member in (ann, bob):
            assert await member.hear() == push("a", b"hello")
        # What follows within a second is merged, and something important neither waits nor overtakes.
        for text in (b"one", b"two"):
            await ann.say(publish("a", text))
        await ann.say(publish("a", b"fire", important=True))
        for member in (ann, bob):
            assert await member.hear() == push("a", b"one", b"two")
            assert await member.hear() == push("a", b"fire", important=True)
        # What is not understood is ignored, and the connection stays.
        for odd in (b"\xff\xff", bytes.fromhex("0863"), b""):
            await ann.say(odd)
        await ann.say(HEARTBEAT)
        assert await ann.hear() == PONG


@pytest.mark.parametrize(
    ("claims", "key", "text"),
    [
        pytest.param({"exp": -60}, KEY, "登录信息过期", id="expired"),
        pytest.param({"iat": 60}, KEY, "无效token", id="issued in the future"),
        pytest.param({"nbf": 60}, KEY, "token is not valid yet", id="not yet valid"),
        pytest.param({}, "another secret of thirty-two bytes", "signature is invalid", id="another key"),
    ],
)
async def test_refused_token_is_told_in_the_words_of_the_go_system(
    claims: dict[str, int], key: str, text: str
) -> None:
    now = int(time.time())
    times = {"iat": now, "exp": now + 60} | {name: now + offset for name, offset in claims.items()}
    token = jwt.encode({"rtm": "test", "ctm": "", "uid": "7", **times}, key, "HS256")
    async with running() as system, browsing(system) as client:
        await client.say(sign_in(token, "a"))
        assert await client.hear() == refused(text)
        await client.say(sign_in(token_of("7"), "a"))
        assert await client.hear() == SUC


async def test_back_end_pushes_the_json_string_of_go() -> None:
    async with running() as system, browsing(system) as member, system.http("shop") as backend:
        await member.say(sign_in(token_of("7"), "a"))
        assert await member.hear() == SUC
        answer = await backend.post("/msg", data={"room_id": "a", "msg": '<群> & "\u2028"'})
        assert (answer.status_code, answer.text) == (200, '{"code":1,"msg":"suc"}')
        text = '"\\u003c群\\u003e \\u0026 \\"\\u2028\\""'.encode()
        assert await member.hear() == push("a", text, important=True)


async def test_token_of_the_server_signs_in() -> None:
    async with running() as system, browsing(system) as client, system.http() as visitor:
        answer = (await visitor.post("/tk", data={"uid": "7"})).json()
        assert (answer["code"], answer["msg"]) == (1, "suc")
        assert jwt.get_unverified_header(answer["data"]) == {"alg": "HS256", "typ": "JWT"}
        claims = jwt.decode(answer["data"], KEY, ["HS256"])
        assert list(claims) == ["rtm", "iat", "exp", "ctm", "uid"]
        assert (claims["rtm"], claims["ctm"], claims["uid"]) == ("test", "", "7")
        assert claims["exp"] - claims["iat"] == 86400
        await client.say(sign_in(answer["data"], "a"))
        assert await client.hear() == SUC


async def test_who_does_not_sign_in_is_closed() -> None:
    hasty = {"conn__websocket__signInTimeout": "200ms", "conn__websocket__sweepInterval": "50ms"}
    async with running(**hasty) as system, browsing(system) as client:
        assert await client.closed() == 4001
