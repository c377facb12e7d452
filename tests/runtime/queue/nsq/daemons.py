"""nsqd for tests: the stand-in, and the real one where it is on PATH, behind one face.

async with open_nsqd(best_kind(), tmp_path / "nsqd", wired=False) as nsqd:
    NsqOptions(nsqd=(nsqd.address,))
    await nsqd.restart()                   # SIGTERM, then again with the same port and data
    await nsqd.end(signal.SIGKILL); await nsqd.start()
    await nsqd.stats("chat_room", "room_job")
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import trio

from tests.http import http_client
from tests.ports import port_of, reserve_port

ROOT = Path(__file__).resolve().parents[4]
STARTED_WITHIN_S = 10
HALF_A_MESSAGE = struct.pack(">ii", 5000, 2) + b"half a message"


@dataclass(frozen=True, slots=True)
class Flags:
    """What a test wants of its nsqd; `known` are channels that exist from the start.

    A real nsqd looks after the timeouts of a new channel only after up to 5 s.  And it forgets, when it
    is killed, what it has not synced (2500 messages or 2 s), queued on disk or not.
    """

    mem_queue_size: int = 0
    sync_every: int = 2500
    fast_output: bool = True
    max_msg_bytes: int = 1 << 20
    tls_cert: Path | None = None
    auth_secret: str | None = None
    auth_server: str | None = None
    lookupd: str | None = None
    known: tuple[tuple[str, str], ...] = ()


class Daemon:
    """One nsqd process with a folder and ports that it keeps when it is started again."""

    def __init__(self, folder: Path, flags: Flags) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.flags = folder, flags
        self.reserved = reserve_port(), reserve_port()
        self.port, self.admin_port = map(port_of, self.reserved)
        self.process: trio.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    async def fault(self, kind: str) -> None:
        """Do `rst`, `mid-frame` or `half-open` to every connection that there is."""
        raise NotImplementedError

    async def stats(self, topic: str, channel: str) -> dict[str, Any]:
        """Return `depth`, `in_flight`, `deferred` and `clients` of a channel.

        `moving` of `depth` are on their way from the topic: a real nsqd writes each twice.
        """
        raise NotImplementedError

    async def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                self.command(), stdout=log, stderr=STDOUT, cwd=ROOT
            )
        with trio.fail_after(STARTED_WITHIN_S):
            for port in (self.port, self.admin_port):
                while True:
                    try:
                        await trio.aclose_forcefully(await trio.open_tcp_stream("127.0.0.1", port))
                        break
                    except OSError:
                        assert self.process.poll() is None, (self.folder / "log").read_text()
                        await trio.sleep(0.02)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        with trio.fail_after(STARTED_WITHIN_S):
            await self.process.wait()

    async def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the process and start it again, with the same port and data."""
        await self.end(number)
        await self.start()

    async def pause(self) -> None:
        """Stop the process as it stands, and wait until all its threads have stopped."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        with trio.fail_after(STARTED_WITHIN_S):
            while any(") T" not in stat.read_text() for stat in tasks.glob("*/stat")):  # noqa: ASYNC110, ASYNC240
                await trio.sleep(0.001)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class FakeNsqd(Daemon):
    def command(self) -> list[str]:
        flags = self.flags
        command = [
            *(sys.executable, "-m", "tests.fakes.nsqd", "--data-path", str(self.folder)),
            *("--port", str(self.port), "--control-port", str(self.admin_port)),
            *("--mem-queue-size", str(flags.mem_queue_size), "--max-msg-size", str(flags.max_msg_bytes)),
        ]
        if flags.fast_output:
            command += ["--min-output-buffer-timeout", "1"]
        if flags.tls_cert:
            command += ["--tls-cert", str(flags.tls_cert)]
        if flags.auth_secret:
            command += ["--auth-secret", flags.auth_secret]
        return command

    async def ask(self, line: str) -> dict[str, Any]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.admin_port)
        async with stream:
            await stream.send_all(line.encode() + b"\n")
            answer: dict[str, Any] = json.loads(await stream.receive_some(65536))
            return answer

    async def fault(self, kind: str) -> None:
        assert (await self.ask(kind))["clients"] > 0

    async def stats(self, topic: str, channel: str) -> dict[str, Any]:
        channels: dict[str, dict[str, Any]] = (await self.ask("stats"))["channels"]
        figures = channels.get(f"{topic}/{channel}", {"depth": 0, "in_flight": 0, "deferred": 0, "rdy": []})
        return figures | {"clients": len(figures["rdy"]), "moving": 0}


class Wire:
    """Between clients and a real nsqd: does to the connections what the stand-in does to its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.clients: dict[trio.SocketStream, trio.CancelScope] = {}
        self.stuck: set[trio.SocketStream] = set()

    async def carry(self, client: trio.SocketStream) -> None:
        try:
            nsqd = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return await trio.aclose_forcefully(client)
        scope = self.clients[client] = trio.CancelScope()
        async with client, nsqd:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.copy, client, nsqd, client, scope)
                    nursery.start_soon(self.copy, nsqd, client, client, scope)
            del self.clients[client]
            await trio.aclose_forcefully(client)
            return await trio.aclose_forcefully(nsqd)

    async def copy(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        key: trio.SocketStream,
        scope: trio.CancelScope,
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                if key in self.stuck:
                    await trio.sleep_forever()
                await sink.send_all(data)
        if key in self.stuck:
            await trio.sleep_forever()
        scope.cancel()

    def fault(self, kind: str) -> None:
        for client, scope in self.clients.items():
            if kind == "half-open":
                self.stuck.add(client)
                continue
            if kind == "rst":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                os.write(client.socket.fileno(), HALF_A_MESSAGE)
            scope.cancel()


class RealNsqd(Daemon):
    def __init__(self, folder: Path, flags: Flags) -> None:
        super().__init__(folder, flags)
        self.wire = Wire(self.port)
        self.wire_port = 0
        if flags.known:
            topics = [
                {"name": topic, "paused": False, "channels": [{"name": channel, "paused": False}]}
                for topic, channel in flags.known
            ]
            (folder / "nsqd.dat").write_text(json.dumps({"version": "1.3.0", "topics": topics}))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.wire_port or self.port}"

    def command(self) -> list[str]:
        flags = self.flags
        command = [
            "nsqd",
            f"-tcp-address=127.0.0.1:{self.port}",
            f"-http-address=127.0.0.1:{self.admin_port}",
            "-broadcast-address=127.0.0.1",
            f"-data-path={self.folder}",
            f"-mem-queue-size={flags.mem_queue_size}",
            f"-max-msg-size={flags.max_msg_bytes}",
            f"-sync-every={flags.sync_every}",
            "-log-level=warn",
        ]
        if flags.fast_output:
            command += ["-min-output-buffer-timeout=1ms", "-output-buffer-timeout=1ms"]
        if flags.tls_cert:
            command += [
                f"-tls-cert={flags.tls_cert}",
                f"-tls-key={flags.tls_cert}",
                "-tls-required=tcp-https",
                "-https-address=127.0.0.1:0",  # nobody asks it there, and its own is taken beside another
            ]
        if flags.auth_server:
            command += [f"-auth-http-address={flags.auth_server}"]
        if flags.lookupd:
            command += [f"-lookupd-tcp-address={flags.lookupd}"]
        return command

    async def fault(self, kind: str) -> None:
        assert self.wire.clients
        self.wire.fault(kind)

    async def stats(self, topic: str, channel: str) -> dict[str, Any]:
        async with http_client() as client:
            url = f"http://127.0.0.1:{self.admin_port}/stats"
            answer = (
                await client.get(url, params={"format": "json", "topic": topic, "channel": channel})
            ).json()
        found = next(c for t in answer["topics"] for c in t["channels"] if c["channel_name"] == channel)
        moving = sum(t["depth"] for t in answer["topics"])
        return {
            "depth": found["depth"] + moving,
            "moving": moving,
            "in_flight": found["in_flight_count"],
            "deferred": found["deferred_count"],
            "clients": found["client_count"],
        }


KINDS: dict[str, type[Daemon]] = {"fake": FakeNsqd, "real": RealNsqd}


def is_missing(kind: str) -> bool:
    return kind == "real" and shutil.which("nsqd") is None


def best_kind() -> str:
    """Name the real nsqd where there is one, else the stand-in."""
    return "fake" if is_missing("real") else "real"


@asynccontextmanager
async def open_nsqd(
    kind: str, folder: Path, flags: Flags = Flags(), *, wired: bool = True
) -> AsyncIterator[Daemon]:
    """Start an nsqd in `folder`; leaving the context kills it.

    A real one that is `wired` is reached through this process, for `fault`.
    """
    nsqd = KINDS[kind](folder, flags)
    async with trio.open_nursery() as nursery:
        if wired and isinstance(nsqd, RealNsqd) and flags.tls_cert is None:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nsqd.wire_port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, nsqd.wire.carry, listeners)
        try:
            await nsqd.start()
            yield nsqd
        finally:
            if nsqd.process is not None and nsqd.process.poll() is None:
                nsqd.process.kill()
                with trio.CancelScope(shield=True):
                    await nsqd.process.wait()
            for held in nsqd.reserved:
                held.close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_lookupd(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Start the real nsqlookupd; yield its TCP and its HTTP address."""
    with reserve_port() as tcp, reserve_port() as http:
        async with _run_lookupd(
            folder, f"127.0.0.1:{port_of(tcp)}", f"127.0.0.1:{port_of(http)}"
        ) as addresses:
            yield addresses


@asynccontextmanager
async def _run_lookupd(folder: Path, *addresses: str) -> AsyncIterator[tuple[str, str]]:
    command = [
        "nsqlookupd",
        f"-tcp-address={addresses[0]}",
        f"-http-address={addresses[1]}",
        "-log-level=error",
    ]
    with (folder / "lookupd.log").open("ab") as log:
        process = await trio.lowlevel.open_process(command, stdout=log, stderr=STDOUT)
    try:
        with trio.fail_after(STARTED_WITHIN_S):
            while True:
                try:
                    host, port = addresses[1].split(":")
                    await trio.aclose_forcefully(await trio.open_tcp_stream(host, int(port)))
                    break
                except OSError:
                    await trio.sleep(0.02)
        yield addresses[0], addresses[1]
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def open_http(answers: dict[str, Any] | list[Any]) -> AsyncIterator[str]:
    """Serve one JSON answer to every GET, whatever is asked: nsqlookupd or an auth server for a test."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some(4096) or b"\r\n\r\n"
            body = json.dumps(answers).encode()
            with suppress(trio.BrokenResourceError):  # more than the one who asks wants to read
                await stream.send_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def run_peer(*arguments: str, feed: bytes = b"") -> bytes:
    """Run a program of tests/peers to its end and return what it printed."""
    with trio.fail_after(30):
        done = await trio.run_process([sys.executable, *arguments], stdin=feed, capture_stdout=True, cwd=ROOT)
    return bytes(done.stdout)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition`; the caller has a deadline."""
    while True:
        if condition():
            return
        await trio.sleep(0.01)


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def batches(bodies: list[bytes], size: int) -> Iterable[list[bytes]]:
    return (bodies[at : at + size] for at in range(0, len(bodies), size))
