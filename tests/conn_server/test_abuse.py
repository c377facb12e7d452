"""What nobody should send, much of it, at a real port: the server goes on serving and keeps nothing."""

from __future__ import annotations

import random
import socket
import ssl
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from conn_server.connection import Limits
from schema.envelope import HEARTBEAT, PONG
from schema.message import Level, Push
from tests.conn_server.conftest import Tls
from tests.conn_server.raw import PING, UPGRADE, close_code, frame, parse_frames
from tests.conn_server.serving import SUC, Served, serving, sign_in

pytestmark = pytest.mark.usefixtures("no_leaks")

BATCH = 250
GET = b"GET /room HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(served: Served, receive_bytes: int = 0) -> socket.socket:
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect(served.address)
    sock.setblocking(False)
    return sock


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def in_bulk(
    served: Served,
    count: int,
    make: Callable[[int], bytes],
    judge: Callable[[int, bytes], bool] | None = None,
) -> None:
    """Connect `count` times, a batch at once; say something, look at what comes, and reset."""
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        socks = [connect(served) for _ in numbers]
        for number, sock in zip(numbers, socks, strict=True):
            with suppress(ConnectionError):
                sock.send(make(number))
        await wait_all_tasks_blocked()
        for number, sock in zip(numbers, socks, strict=True):
            if judge is not None:
                assert judge(number, await hear(sock)), number
            reset(sock)
        await wait_all_tasks_blocked()


async def hear(sock: socket.socket) -> bytes:
    with trio.fail_after(5), suppress(ConnectionError):
        while True:
            try:
                return sock.recv(65536)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
    return b""


async def still_serves(served: Served) -> None:
    peer = await served.join("lobby")
    await peer.say(HEARTBEAT)
    assert await peer.hear() == PONG
    await peer.aclose()
    await served.until(lambda: served.is_empty)
    assert served.number("poller_failures_total") == 0


async def test_ten_thousand_plain_requests_half_sent_ones_and_garbage_leave_the_server_serving() -> None:
    rnd = random.Random(1)
    async with serving() as served:
        await in_bulk(served, 4000, lambda _: GET, lambda _, heard: heard.startswith(b"HTTP/1.1 400 "))
        await in_bulk(served, 2500, lambda number: UPGRADE[: number % len(UPGRADE)])
        await in_bulk(served, 1500, lambda _: rnd.randbytes(rnd.randrange(1, 3000)))
        await in_bulk(served, 1000, lambda _: b"GET /room" + rnd.randbytes(rnd.randrange(1, 3000)))
        await in_bulk(
            served,
            1000,
            lambda _: UPGRADE + rnd.randbytes(rnd.randrange(1, 3000)),
            lambda _, heard: heard.startswith(b"HTTP/1.1 101 "),
        )
        await still_serves(served)
        assert served.number("listener_accepted_total") == 10_001


async def test_silent_sockets_are_all_gone_after_the_deadline() -> None:
    async with serving() as served:
        socks = [connect(served) for _ in range(300)]
        for number, sock in enumerate(socks):
            sock.send(UPGRADE[: 1 + number % 100])
        await served.until(lambda: served.node.admission.statistics().connections == 300)
        await wait_all_tasks_blocked()
        served.sweep(5.1)
        assert served.is_empty
        for sock in socks:
            sock.close()
        await still_serves(served)


async def test_reset_after_any_byte_leaves_nothing() -> None:
    data = UPGRADE + frame(sign_in("lobby")) + frame(HEARTBEAT) + frame(b"a", 0x02) + frame(b"", PING)
    async with serving() as served:
        await in_bulk(served, len(data), lambda number: data[:number])
        await in_bulk(served, len(data), lambda _: data)
        await served.until(lambda: served.is_empty)
        await still_serves(served)


@contextmanager
def tls_client(
    served: Served, tls: Tls, most: int
) -> Iterator[tuple[socket.socket, ssl.SSLObject, Callable[[], bool]]]:
    """A client whose TLS bytes reach the server up to the `most`th; then it resets."""
    sock = connect(served)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    left = most

    def pump() -> bool:
        nonlocal left
        data = outgoing.read()
        with suppress(BlockingIOError, ConnectionError):
            sock.send(data[:left])
        left -= min(left, len(data))
        with suppress(BlockingIOError, ConnectionError):
            incoming.write(sock.recv(65536))
        return left > 0

    yield sock, client, pump
    reset(sock)


async def test_reset_after_any_byte_of_tls_leaves_nothing(tls: Tls) -> None:
    async with serving(**tls.settings) as served:
        for most in range(0, 1300, 17):
            with tls_client(served, tls, most) as (_, client, pump):
                said = False
                for _ in range(8):
                    with suppress(ssl.SSLWantReadError):
                        if not said:
                            client.do_handshake()
                            client.write(UPGRADE + frame(sign_in("lobby")) + frame(HEARTBEAT))
                            said = True
                    if not pump():
                        break
                    await wait_all_tasks_blocked()
        await served.until(lambda: served.is_empty)
        peer = await served.join("lobby", tls=tls.client)
        await peer.say(HEARTBEAT)
        assert await peer.hear() == PONG
        assert served.number("poller_failures_total") == 0


async def test_garbage_on_a_tls_port_leaves_the_server_serving(tls: Tls) -> None:
    rnd = random.Random(2)
    async with serving(**tls.settings) as served:
        await in_bulk(served, 300, lambda number: (UPGRADE, rnd.randbytes(200), b"\x16\x03\x01")[number % 3])
        await served.until(lambda: served.is_empty)
        await served.join("lobby", tls=tls.client)


# -- a client that never reads

LIMITS = Limits(outbox_soft_bytes=64 << 10, outbox_hard_bytes=128 << 10)


def push(room: str, level: Level = Level.IMPORTANT) -> Push:
    return Push(room, level, (20_000).to_bytes(4, "little") + b"m" * 20_000)


async def test_client_that_never_reads_is_evicted_and_delays_nobody() -> None:
    async with serving(limits=LIMITS) as served, trio.open_nursery() as nursery:
        heard = {"quiet": 0, "slow": 0}

        async def read(room: str) -> None:
            peer = await served.join(room)
            while True:
                await peer.hear()
                heard[room] += 1

        for room in heard:
            for _ in range(10):
                nursery.start_soon(read, room)
        stuck = connect(served, receive_bytes=4096)
        stuck.send(UPGRADE + frame(sign_in("slow")))
        await served.until(lambda: served.node.rooms.statistics().memberships == 21)
        took: dict[str, list[float]] = {"quiet": [], "slow": []}
        most = 0
        while served.node.rooms.statistics().memberships == 21:
            for room, times in took.items():  # in turn, so that a busy machine is busy for both
                start = time.perf_counter()
                await served.port.broadcaster.broadcast(push(room))
                times.append(time.perf_counter() - start)
            outboxes = [client.connection.outbox for client in served.clients if client.connection]
            most = max(most, *(outbox.size_bytes for outbox in outboxes if outbox), 0)
            await wait_all_tasks_blocked()
        for room in heard:
            for _ in range(20):
                await served.port.broadcaster.broadcast(push(room))
        rounds = len(took["slow"]) + 20
        await served.until(lambda: heard == {"quiet": 10 * rounds, "slow": 10 * rounds})
        assert most <= LIMITS.outbox_hard_bytes
        assert statistics.median(took["slow"]) <= 3 * statistics.median(took["quiet"])
        assert served.wire.statistics().evicted == {"overflow": 1}
        frames, _ = parse_frames((await read_all(stuck)).partition(b"\r\n\r\n")[2])
        assert frames[0][1] == SUC
        assert close_code(frames[-1]) == 4008
        stuck.close()
        nursery.cancel_scope.cancel()


async def read_all(sock: socket.socket) -> bytes:
    heard = b""
    while data := await hear(sock):
        heard += data
    return heard


async def test_client_that_asks_and_never_reads_is_evicted() -> None:
    async with serving(limits=LIMITS) as served:
        stuck = connect(served, receive_bytes=4096)
        stuck.send(UPGRADE + frame(sign_in("lobby")))
        await served.until(lambda: served.node.rooms.statistics().memberships)
        requests = (frame(HEARTBEAT) * 50 + frame(b"p" * 125, PING)) * 20
        rest = b""
        with trio.fail_after(30):
            while not served.wire.evicted:
                rest = rest or requests  # what was not taken goes first: half a frame would be another fault
                with suppress(BlockingIOError, ConnectionError):
                    rest = rest[stuck.send(rest) :]
                await wait_all_tasks_blocked()
        assert not served.node.rooms.statistics().memberships
        stuck.close()
        await served.until(lambda: served.is_empty)
