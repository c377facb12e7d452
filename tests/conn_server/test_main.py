"""Several conn servers on one port, as an operator has them: processes, seen through logs and sockets."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.conn_server.raw import ACCEPTED, CLOSE, PING, PONG, UPGRADE, frame
from tests.program import started

pytestmark = pytest.mark.usefixtures("no_leaks")

LOOPBACK = "127.0.0.1:0"
CLIENTS = 400
AT_ONCE = 40
SETTINGS = {
    "ROOMCAST_WEBSOCKET__WORKERS": "2",
    "ROOMCAST_WEBSOCKET__BIND": LOOPBACK,
    "ROOMCAST_WEBSOCKET__SIGNINTIMEOUT": "1m",
    "ROOMCAST_SRV__LISTENADDR": LOOPBACK,
    "ROOMCAST_ADMIN__BIND": LOOPBACK,
    "ROOMCAST_DRAIN__TIMEOUT": "10s",
    "ROOMCAST_DRAIN__WORKERINTERVAL": "300ms",
}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """systemd's end of the notification socket, and what the environment says about it."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(name)
        yield sock, {"NOTIFY_SOCKET": name}


async def hear(sock: socket.socket, message: bytes) -> None:
    """Wait for a message to systemd."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        if sock.recv(4096) == message:
            return


async def connect(address: str) -> trio.SocketStream:
    """Return a WebSocket; nobody has signed in."""
    host, _, port = address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(UPGRADE)
    head = b""
    while b"\r\n\r\n" not in head:
        head += bytes(await stream.receive_some())
    assert ACCEPTED in head
    return stream


async def is_served(client: trio.SocketStream) -> bool:
    """Return whether a ping is answered; a connection that has ended is not."""
    try:
        await client.send_all(frame(b"?", PING))
        return bytes(await client.receive_some()) == bytes((PONG, 1)) + b"?"
    except trio.BrokenResourceError:
        return False


async def number(address: str, name: str) -> int:
    """Return one of the numbers at an admin port."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b"".join([bytes(chunk) async for chunk in stream]).decode()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return round(float(line.split()[1]))


async def test_two_workers_share_the_clients_replace_each_other_and_drain_in_steps(
    tmp_path: Path, manager: tuple[socket.socket, dict[str, str]]
) -> None:
    sock, environ = manager
    clients: list[trio.SocketStream] = []
    limit = trio.CapacityLimiter(AT_ONCE)

    async def join(address: str) -> None:
        async with limit:
            clients.append(await connect(address))

    async with started("conn_server", tmp_path, **SETTINGS, **environ) as program:
        address = (await program.wait("supervising"))["clients"]
        await hear(sock, b"READY=1")
        serving = [await program.wait("serving", worker=worker) for worker in (0, 1)]
        assert {line["clients"] for line in serving} == {address}

        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(join, address)
        held = [await number(line["admin"], "roomcast_admission_connections") for line in serving]
        assert sum(held) == CLIENTS
        assert 0.4 * CLIENTS <= held[0] <= 0.6 * CLIENTS

        os.kill(await program.pid(0), signal.SIGKILL)
        await program.wait("worker ended", worker=0, reason="killed")
        assert [await is_served(client) for client in clients].count(True) == held[1]
        await program.wait("serving", times=2, worker=0)
        again = await connect(address)
        admin = program.find("supervising")[0]["admin"]
        assert await number(admin, 'roomcast_workers_ended_total{reason="killed"}') == 1

        program.process.send_signal(signal.SIGTERM)
        await hear(sock, b"STOPPING=1")
        with trio.fail_after(10):
            farewell = bytes(await again.receive_some())
            assert farewell[0] == CLOSE
            assert farewell[2:4] == (1001).to_bytes(2, "big")
            # They wait for the answer to the close frame.
            for client in (*clients, again):
                await client.aclose()
            await program.ended.wait()
    assert program.process.returncode == 0
    assert [line["worker"] for line in program.find("sending clients away")] == [0, 1]
    assert [line["reason"] for line in program.find("worker ended")] == ["killed", "drained", "drained"]


async def test_worker_that_stands_still_is_replaced_and_none_outlives_the_supervisor(tmp_path: Path) -> None:
    async with started("conn_server", tmp_path, **SETTINGS, WATCHDOG_USEC="3000000") as program:
        serving = await program.wait("serving", worker=1)
        os.kill(await program.pid(0), signal.SIGSTOP)
        await program.wait("worker ended", worker=0, reason="stalled", exit_code=-signal.SIGKILL)
        await program.wait("worker started", times=2, worker=0)
        assert program.find("worker ended", worker=1) == []
        client = await connect(serving["clients"])
        program.process.kill()
        await program.wait("the supervisor is gone, draining", worker=1)
        await client.aclose()
        with trio.fail_after(15):
            await program.ended.wait()
    assert program.find("stopped", exit_code=0), "the worker has drained; nobody else could say so"


async def test_what_is_to_be_mended_is_said_once_and_ends_it_all(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.pem")
    files = {"ROOMCAST_WEBSOCKET__TLSCERT": missing, "ROOMCAST_WEBSOCKET__TLSKEY": missing}
    async with started("conn_server", tmp_path, **SETTINGS, **files) as program:
        await program.ended.wait()
    assert program.process.returncode == 2
    said = [line["text"] for line in program.lines if "text" in line]
    assert said == [
        f"conn: [websocket] tlsCert {missing}, tlsKey {missing}: No such file or directory",
        "conn: worker 0 cannot start, for the reason given above",
    ]
