"""What the units rely on, seen from systemd's end: real processes, started as `ExecStart=` starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1:0"
WATCHDOG_USEC = 100_000

# Module -> settings with which it runs beside others on one machine.  Without etcd and nsqd: a service is
# ready to be told about them.
PROGRAMS: dict[str, dict[str, str]] = {
    "conn_server": {
        "ROOMCAST_WEBSOCKET__BIND": LOOPBACK,
        "ROOMCAST_SRV__LISTENADDR": LOOPBACK,
        "ROOMCAST_ADMIN__BIND": LOOPBACK,
        "ROOMCAST_DRAIN__TIMEOUT": "5s",
    },
    "logic_server": {
        "ROOMCAST_SRV__LISTENADDR": LOOPBACK,
        "ROOMCAST_ADMIN__BIND": LOOPBACK,
        "ROOMCAST_DRAIN__TIMEOUT": "5s",
    },
    "job_worker": {
        "ROOMCAST_ADMIN__BIND": LOOPBACK,
        "ROOMCAST_DRAIN__TIMEOUT": "5s",
    },
    "standalone": {
        "ROOMCAST_CONN__WEBSOCKET__BIND": LOOPBACK,
        "ROOMCAST_CONN__ADMIN__BIND": LOOPBACK,
        "ROOMCAST_CONN__DRAIN__TIMEOUT": "5s",
    },
}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(str(tmp_path / "notify"))
        yield sock


async def hear(sock: socket.socket) -> bytes:
    """Return the next message to systemd."""
    await trio.lowlevel.wait_readable(sock)
    return sock.recv(4096)


@asynccontextmanager
async def started(module: str, folder: Path) -> AsyncIterator[trio.Process]:
    """Start a program as the unit does: credentials in a folder, no working directory to import from."""
    credentials = folder / "credentials"
    credentials.mkdir()
    (credentials / "token_secret").write_text(f"{'k' * 64}\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROOMCAST_")}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-P", "-X", "faulthandler", "-m", module],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={
            **clean,
            **PROGRAMS.get(module, {}),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))),
            "CREDENTIALS_DIRECTORY": str(credentials),
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(WATCHDOG_USEC),
        },
    )
    try:
        with trio.fail_after(40):
            yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stderr is not None
        await process.stderr.aclose()


async def said(process: trio.Process) -> str:
    """Return all that the program has said, once it has ended."""
    assert process.stderr is not None
    return b"".join([bytes(chunk) async for chunk in process.stderr]).decode()


@pytest.mark.parametrize("module", PROGRAMS)
async def test_program_tells_systemd_that_it_is_ready_alive_and_stopping(
    module: str, manager: socket.socket, tmp_path: Path
) -> None:
    heard: list[bytes] = []
    texts: list[str] = []

    async def wait_for(message: bytes) -> None:
        while await hear(manager) != message:
            pass
        heard.append(message)

    async with started(module, tmp_path) as process, trio.open_nursery() as nursery:

        async def watch_end() -> None:
            texts.append(await said(process))
            await process.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch_end)
        await wait_for(b"READY=1")
        await wait_for(b"WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        await wait_for(b"STOPPING=1")
    assert heard == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"], texts
    assert process.returncode == 0, texts


STALLING = """
import sys, time
from runtime.lifecycle import run_service
from runtime.sections import DrainLimits, Log, ServiceSettings

class Settings(ServiceSettings, frozen=True):
    log: Log = Log()
    drain: DrainLimits = DrainLimits()

def stall():
    time.sleep(60)

async def serve(settings, drain, log, *, task_status):
    task_status.started(None)
    stall()

sys.exit(run_service("stalling", Settings, serve, conf=None))
"""


async def test_loop_that_stalls_is_not_alive_and_shows_where_when_systemd_aborts_it(
    manager: socket.socket, tmp_path: Path
) -> None:
    (tmp_path / "stalling.py").write_text(STALLING)
    async with started("stalling", tmp_path) as process:
        while await hear(manager) != b"STATUS=serving":
            pass
        with trio.move_on_after(5 * WATCHDOG_USEC / 1e6):
            pytest.fail(f"a stalled loop has said {await hear(manager)!r}")
        process.send_signal(signal.SIGABRT)  # what systemd does after WatchdogSec=
        text = await said(process)
        assert await process.wait() == -signal.SIGABRT
    assert "in stall" in text
