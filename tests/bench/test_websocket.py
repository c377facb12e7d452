from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio

from bench.frames import Upgrade
from bench.poller import Poller
from bench.stream import Endpoint
from bench.websocket import WebSocket
from tests.bench.raw import drive, open_script

pytestmark = pytest.mark.usefixtures("no_leaks")

NONCE = b"sixteen bytes !!"
UPGRADE = Upgrade.to("localhost", "/room", NONCE)
ACCEPTED = b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: " + UPGRADE.accept + b"\r\n\r\n"
KEY = b"\0\0\0\0"  # what is masked with it reads as it is


class Noted:
    """Notes what its WebSocket tells."""

    def __init__(self) -> None:
        self.is_open = False
        self.messages: list[bytes] = []
        self.ends: list[tuple[str, float | None]] = []

    def opened(self, now: int) -> None:
        self.is_open = True

    def received(self, payload: bytes, now: int) -> None:
        self.messages.append(payload)

    def ended(self, why: str, retry_after_s: float | None) -> None:
        self.ends.append((why, retry_after_s))


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


async def heard(poller: Poller, *parts: bytes) -> tuple[Noted, bytes]:
    """Let a server answer the upgrade with `parts`, one after the other, and end; return what it got too."""
    got, is_at_end = bytearray(), trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        for part in parts:
            await stream.send_all(part)
            await trio.sleep(0.002)  # so that they arrive one by one
        await stream.send_eof()
        async for data in stream:
            got.extend(data)
        is_at_end.set()

    noted = Noted()
    async with open_script(script) as port:
        endpoint = Endpoint("127.0.0.1", port, socket.AF_INET, None)
        WebSocket(poller, endpoint, UPGRADE, KEY, noted).connect()
        await drive(poller, lambda: bool(noted.ends))
        with trio.fail_after(10):
            await is_at_end.wait()
    return noted, bytes(got)


async def test_message_glued_to_the_upgrade_is_heard(poller: Poller) -> None:
    noted, _ = await heard(poller, ACCEPTED + b"\x82\x02hi")
    assert noted.is_open
    assert noted.messages == [b"hi"]
    assert noted.ends == [("closed by the server", None)]


async def test_messages_are_heard_byte_by_byte(poller: Poller) -> None:
    wire = ACCEPTED + b"\x82\x02hi" + b"\x82\x7e\x00\x80" + b"x" * 128
    noted, _ = await heard(poller, *(wire[n : n + 1] for n in range(len(wire))))
    assert noted.messages == [b"hi", b"x" * 128]


async def test_frames_of_every_length_are_heard_whole(poller: Poller) -> None:
    long = b"y" * 70_000
    noted, _ = await heard(
        poller,
        ACCEPTED,
        b"\x82\x00",
        b"\x82\x7e\x01\x00" + b"x" * 256,
        b"\x82\x7f" + (70_000).to_bytes(8) + long,
    )
    assert noted.messages == [b"", b"x" * 256, long]


async def test_fragments_are_one_message_and_a_ping_between_them_is_answered(poller: Poller) -> None:
    noted, got = await heard(poller, ACCEPTED, b"\x02\x01a" + b"\x89\x02pp" + b"\x00\x01b", b"\x80\x01c")
    assert noted.messages == [b"abc"]
    assert got == b"\x8a\x82" + KEY + b"pp"


async def test_close_code_is_said_and_echoed(poller: Poller) -> None:
    noted, got = await heard(poller, ACCEPTED + b"\x88\x04\x0f\xa8no\x82\x01x")
    assert noted.ends == [("closed with 4008", None)]
    assert noted.messages == []
    assert got == b"\x88\x82" + KEY + b"\x0f\xa8"


async def test_refusal_says_its_status_and_when_to_come_back(poller: Poller) -> None:
    noted, _ = await heard(poller, b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\n\r\n")
    assert noted.ends == [("HTTP 503", 3.0)]
    assert not noted.is_open
