from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest
import trio
import trustme

from bench.poller import Poller
from bench.stream import MAX_UNSENT_BYTES, Endpoint, Stream
from tests.bench.raw import drive, open_script

pytestmark = pytest.mark.usefixtures("no_leaks")


class Noted(Stream):
    """Notes what happens."""

    __slots__ = ("came", "ends", "is_connected")

    def __init__(self, poller: Poller, endpoint: Endpoint) -> None:
        super().__init__(poller, endpoint)
        self.came = b""
        self.ends: list[str] = []
        self.is_connected = False

    def on_connected(self, now: int) -> None:
        self.is_connected = True

    def on_data(self, data: bytes, now: int) -> None:
        self.came += data

    def on_end(self, why: str) -> None:
        self.ends.append(why)


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


def endpoint(port: int, tls: ssl.SSLContext | None = None, name: str = "") -> Endpoint:
    return Endpoint("127.0.0.1", port, socket.AF_INET, tls, name)


async def echo(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
    async for data in stream:
        await stream.send_all(data)


async def test_large_data_is_sent_in_parts_and_comes_back(poller: Poller) -> None:
    data = bytes(range(256)) * 3000
    async with open_script(echo) as port:
        stream = Noted(poller, endpoint(port))
        stream.connect(source="127.0.0.9")
        await drive(poller, lambda: stream.is_connected)
        assert stream.sock is not None
        assert stream.sock.getsockname()[0] == "127.0.0.9"
        stream.send(data)
        stream.send(b"end")
        await drive(poller, lambda: stream.came.endswith(b"end"))
        stream.abort()
    assert stream.came == data + b"end"
    assert stream.ends == ["aborted"]


async def test_tls_is_spoken_and_what_it_holds_back_is_read(poller: Poller) -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    data = b"0123456789" * 10_000

    async def script(stream: trio.SocketStream) -> None:
        await echo(trio.SSLStream(stream, server, server_side=True, https_compatible=True))

    async with open_script(script) as port:
        stream = Noted(poller, endpoint(port, client))
        stream.connect()
        await drive(poller, lambda: stream.is_connected)
        stream.send(data)
        await drive(poller, lambda: len(stream.came) == len(data))
        stream.abort()
    assert stream.came == data


async def test_certificate_is_for_the_name_in_the_address(poller: Poller) -> None:
    # It was compared with the resolved IP address, and the server was not told whom it was asked for.
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("chat.example").configure_cert(server)
    authority.configure_trust(client)
    asked: list[str | None] = []
    server.sni_callback = lambda _, name, __: asked.append(name)

    async def script(stream: trio.SocketStream) -> None:
        await echo(trio.SSLStream(stream, server, server_side=True, https_compatible=True))

    async with open_script(script) as port:
        stream = Noted(poller, endpoint(port, client, "chat.example"))
        stream.connect()
        await drive(poller, lambda: stream.is_connected)
        stream.abort()
    assert asked == ["chat.example"]


async def test_certificate_that_is_not_trusted_ends_the_stream(poller: Poller) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server)

    async def script(stream: trio.SocketStream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, server, server_side=True).do_handshake()

    async with open_script(script) as port:
        stream = Noted(poller, endpoint(port, ssl.create_default_context()))
        stream.connect()
        await drive(poller, lambda: bool(stream.ends))
    assert stream.ends == ["SSLCertVerificationError"]
    assert not stream.is_connected


async def test_nobody_there_is_said_once(poller: Poller) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        stream = Noted(poller, endpoint(unused.getsockname()[1]))
        stream.connect()
        await drive(poller, lambda: bool(stream.ends))
    stream.abort()
    assert stream.ends == ["ECONNREFUSED"]
    stream.send(b"into the void")


async def test_end_of_the_server_is_said(poller: Poller) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.send_all(b"bye")

    async with open_script(script) as port:
        stream = Noted(poller, endpoint(port))
        stream.connect()
        await drive(poller, lambda: bool(stream.ends))
    assert (stream.came, stream.ends) == (b"bye", ["closed by the server"])


async def test_end_is_seen_by_who_does_not_read(poller: Poller) -> None:
    goodbye = trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        await goodbye.wait()
        await stream.send_all(b"bye")
        await stream.send_eof()
        await stream.receive_some()

    async with open_script(script) as port:
        stream = Noted(poller, endpoint(port))
        stream.connect()
        await drive(poller, lambda: stream.is_connected)
        stream.stop_reading()
        goodbye.set()
        await drive(poller, lambda: bool(stream.ends))
    assert (stream.came, stream.ends) == (b"bye", ["closed by the server"])


async def test_server_that_does_not_read_is_given_up(poller: Poller) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with open_script(script) as port:
        stream = Noted(poller, endpoint(port))
        stream.connect()
        await drive(poller, lambda: stream.is_connected)
        for _ in range(200):
            stream.send(b"x" * (MAX_UNSENT_BYTES // 10))
    assert stream.ends == ["the server does not read"]


async def test_stream_connects_again_after_its_end(poller: Poller) -> None:
    async with open_script(echo) as port:
        stream = Noted(poller, endpoint(port))
        for _ in range(2):
            stream.is_connected = False
            stream.connect()
            assert stream.is_connecting
            await drive(poller, lambda: stream.is_connected)
            stream.abort("again")
    assert stream.ends == ["again", "again"]
