from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing
import trustme

from conn_server.http.streams import HandedStream

pytestmark = pytest.mark.usefixtures("no_leaks")


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def shake_hands(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
            return
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)


@contextmanager
def tls_sockets(authority: trustme.CA) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("chat.example").configure_cert(server)
    authority.configure_trust(client)
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with (
        server.wrap_socket(near, server_side=True, do_handshake_on_connect=False) as near_tls,
        client.wrap_socket(far, server_hostname="chat.example", do_handshake_on_connect=False) as far_tls,
    ):
        yield near_tls, far_tls


async def test_what_was_received_is_replayed_before_the_socket_is_read() -> None:
    with pair() as (near, far):
        far.send(b"new")
        stream = HandedStream(near, b"old")
        assert await stream.receive_some() == b"old"
        assert await stream.receive_some() == b"new"
        far.close()
        assert not stream.has_received_end
        assert await stream.receive_some() == b""
        assert stream.has_received_end


async def test_long_replay_comes_in_bounded_pieces() -> None:
    with pair() as (near, _):
        stream = HandedStream(near, bytes(100_000))
        pieces = [await stream.receive_some() for _ in range(7)]
        assert max(map(len, pieces)) == 16 * 1024
        assert b"".join(pieces) == bytes(100_000)


async def test_both_ways_wait_for_the_peer() -> None:
    with pair() as (near, far), trio.fail_after(5):
        stream, peer = HandedStream(near), HandedStream(far)
        much, got = b"x" * (4 << 20), bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, much)
            await trio.testing.wait_all_tasks_blocked()
            while len(got) < len(much):
                got += await peer.receive_some()
        assert got == much


async def test_closing_wakes_the_reader_and_leaves_the_socket_open() -> None:
    with pair() as (near, _):
        stream = HandedStream(near, b"old")
        await stream.receive_some()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        assert near.fileno() >= 0


async def test_end_of_our_side_arrives_after_what_was_sent() -> None:
    with pair() as (near, far):
        stream, peer = HandedStream(near), HandedStream(far)
        await stream.send_all(b"last")
        await stream.send_eof()
        await stream.send_eof()
        assert (await peer.receive_some(), await peer.receive_some()) == (b"last", b"")
        assert stream.has_sent_end


async def test_peer_that_resets_breaks_the_stream() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as far:
            near, _ = listener.accept()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with near:
            near.setblocking(False)
            with pytest.raises(trio.BrokenResourceError):
                await HandedStream(near).receive_some()


async def test_cancelled_read_loses_nothing() -> None:
    with pair() as (near, far):
        stream = HandedStream(near, b"old")
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive_some()
        assert await stream.receive_some() == b"old"
        with trio.move_on_after(0.01):
            await stream.receive_some()
        far.send(b"new")
        assert await stream.receive_some() == b"new"


async def test_tls_goes_both_ways_and_ends_with_a_close_notify(authority: trustme.CA) -> None:
    with tls_sockets(authority) as (near, far), trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_hands, near)
            nursery.start_soon(shake_hands, far)
        stream, peer = HandedStream(near), HandedStream(far)
        await peer.send_all(b"question")
        assert await stream.receive_some() == b"question"
        await stream.send_all(b"answer")
        await stream.send_eof()
        assert (await peer.receive_some(), await peer.receive_some()) == (b"answer", b"")
        assert far.unwrap() is not None  # raises unless the peer's close_notify has come
