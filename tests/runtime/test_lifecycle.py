from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.typing import FilteringBoundLogger

from runtime.failures import SetupError
from runtime.lifecycle import Drain, run_service
from runtime.sections import DrainLimits, Log, ServiceSettings

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[2]
READY = b"ready\n"


class Settings(ServiceSettings, frozen=True):
    log: Log = Log()
    drain: DrainLimits = DrainLimits()


async def test_drain_has_one_deadline_however_often_it_is_started(
    autojump_clock: trio.testing.MockClock,
) -> None:
    drain = Drain(20)
    assert drain.deadline == float("inf")
    drain.start()
    deadline = trio.current_time() + 20
    await trio.sleep(5)
    drain.start()
    assert drain.draining.is_set()
    assert drain.deadline == deadline
    assert drain.remaining_s() == pytest.approx(15)
    await trio.sleep(30)
    assert drain.remaining_s() == 0


def service(
    work: Callable[[Drain, trio.TaskStatus[str]], Any],
) -> Any:
    async def serve(
        settings: Settings, drain: Drain, log: FilteringBoundLogger, *, task_status: trio.TaskStatus[str]
    ) -> None:
        await work(drain, task_status)

    return serve


async def drains_at_once(drain: Drain, task_status: trio.TaskStatus[str]) -> None:
    task_status.started("127.0.0.1:1")
    drain.start()
    await drain.draining.wait()


def test_service_that_drains_ends_with_0_and_says_where_it_serves(capsys: pytest.CaptureFixture[str]) -> None:
    announced: list[str] = []
    code = run_service(
        "conn", Settings, service(drains_at_once), conf=None, environ={}, announce=announced.append
    )
    assert (code, announced) == (0, ["127.0.0.1:1"])
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["starting", "stopped"]


def test_check_prints_the_settings_and_serves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def never(drain: Drain, task_status: trio.TaskStatus[str]) -> None:
        raise AssertionError("served")

    environ = {"ROOMCAST_LOG__LEVEL": "debug"}
    assert run_service("conn", Settings, service(never), conf=None, check=True, environ=environ) == 0
    assert (
        'level = "debug"                          # environment ROOMCAST_LOG__LEVEL'
        in capsys.readouterr().out
    )


def test_bad_settings_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "conn.toml"
    conf.write_text("[log]\nlevle = 'info'\n")
    assert run_service("conn", Settings, service(drains_at_once), conf=conf, environ={}) == 2
    assert capsys.readouterr().err == f"conn: {conf}:2: log.levle is not a setting; did you mean log.level?\n"


async def finds_its_address_in_use(drain: Drain, task_status: trio.TaskStatus[str]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises, OSError(errno.EADDRINUSE, "Address already in use"))


async def lacks_its_secret(drain: Drain, task_status: trio.TaskStatus[str]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises, SetupError("no token secret"))


async def raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("work", "said"),
    [(finds_its_address_in_use, "conn: Address already in use"), (lacks_its_secret, "conn: no token secret")],
)
def test_set_up_that_fails_is_one_line_without_a_traceback(
    work: Callable[[Drain, trio.TaskStatus[str]], Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_service("conn", Settings, service(work), conf=None, environ={}) == 2
    *_, last = lines = capsys.readouterr().err.splitlines()
    assert last == said
    assert len(lines) == 2  # "starting" before it


async def fails_when_started(drain: Drain, task_status: trio.TaskStatus[str]) -> None:
    task_status.started("x")
    raise OSError(errno.EADDRINUSE, "Address already in use")


async def has_a_defect(drain: Drain, task_status: trio.TaskStatus[str]) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("work", [fails_when_started, has_a_defect])
def test_failure_is_logged_with_its_traceback_and_exit_code_1(
    work: Callable[[Drain, trio.TaskStatus[str]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_service("conn", Settings, service(work), conf=None, environ={}) == 1
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["event"] == "failed"
    assert "exception" in line


async def does_not_notice_the_drain(drain: Drain, task_status: trio.TaskStatus[str]) -> None:
    task_status.started("x")
    drain.start()
    await trio.sleep_forever()


def test_service_that_does_not_drain_in_time_is_cancelled(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"ROOMCAST_DRAIN__TIMEOUT": "1ms"}
    assert run_service("conn", Settings, service(does_not_notice_the_drain), conf=None, environ=environ) == 1
    assert "not drained in time" in capsys.readouterr().err


def test_log_file_that_cannot_be_opened_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"ROOMCAST_LOG__FILE": str(tmp_path)}
    assert run_service("conn", Settings, service(drains_at_once), conf=None, environ=environ) == 2
    assert capsys.readouterr().err == f"conn: {tmp_path}: Is a directory\n"


CHILD = """
import sys
import trio
from runtime.lifecycle import run_service
from runtime.sections import DrainLimits, Log, ServiceSettings

class Settings(ServiceSettings, frozen=True):
    log: Log = Log()
    drain: DrainLimits = DrainLimits()

async def serve(settings, drain, log, *, task_status):
    task_status.started("ready")
    await drain.draining.wait()
    print("draining", flush=True)
    if sys.argv[1] == "slow":
        await trio.sleep(60)
    if sys.argv[1] == "deaf":
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

sys.exit(run_service("child", Settings, serve, conf=None, announce=lambda text: print(text, flush=True)))
"""


@asynccontextmanager
async def child(manner: str, program: str = CHILD, **environ: str) -> AsyncIterator[trio.Process]:
    """A service in a process of its own, ready to be signalled; killed at the end if it is still there."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", program, manner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **environ},
    )
    try:
        with trio.fail_after(60):
            await said(process, READY)
            yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await pipe.aclose()


async def said(process: trio.Process, line: bytes) -> None:
    assert process.stdout is not None
    text = b""
    while not text.endswith(line):
        chunk = await process.stdout.receive_some()
        assert chunk, f"ended with {text!r}"
        text += bytes(chunk)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_drains_and_the_process_ends_with_0(number: signal.Signals) -> None:
    async with child("quick") as process:
        process.send_signal(number)
        assert await process.wait() == 0


async def test_second_signal_ends_at_once() -> None:
    async with child("slow") as process:
        process.send_signal(signal.SIGTERM)
        await said(process, b"draining\n")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 128 + signal.SIGINT


async def test_third_signal_ends_what_does_not_let_itself_be_cancelled(tmp_path: Path) -> None:
    log = tmp_path / "live.log"
    async with child("deaf", ROOMCAST_LOG__FILE=str(log)) as process:
        process.send_signal(signal.SIGTERM)
        await said(process, b"draining\n")
        process.send_signal(signal.SIGTERM)
        await written(log, "ending at once")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 128 + signal.SIGTERM


async def test_hangup_reopens_the_log_file(tmp_path: Path) -> None:
    log, moved = tmp_path / "live.log", tmp_path / "live.log.1"
    async with child("quick", ROOMCAST_LOG__FILE=str(log)) as process:
        log.rename(moved)
        process.send_signal(signal.SIGHUP)
        await written(log, "log reopened")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert "starting" in moved.read_text()
    assert "stopped" in log.read_text()


HOOKED = """
import sys
import trio
from runtime.lifecycle import Hooks, run_service
from runtime.sections import DrainLimits, Log, ServiceSettings

class Settings(ServiceSettings, frozen=True):
    log: Log = Log()
    drain: DrainLimits = DrainLimits()

async def serve(settings, drain, log, *, task_status):
    task_status.started("ready")
    await drain.draining.wait()

def say(text):
    print(text, flush=True)

hooks = Hooks(reload=lambda: say("reloaded"), is_alive=lambda: sys.argv[1] == "alive")
sys.exit(run_service("child", Settings, serve, conf=None, announce=say, hooks=hooks))
"""


async def test_service_with_processes_of_its_own_passes_the_hangup_on() -> None:
    async with child("alive", HOOKED) as process:
        process.send_signal(signal.SIGHUP)
        await said(process, b"reloaded\n")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.parametrize(("manner", "is_fed"), [("alive", True), ("not alive", False)])
async def test_service_with_processes_of_its_own_is_alive_when_they_are(
    manager: tuple[socket.socket, str], manner: str, is_fed: bool
) -> None:
    sock, name = manager
    async with child(manner, HOOKED, NOTIFY_SOCKET=name, WATCHDOG_USEC="40000") as process:
        process.send_signal(signal.SIGHUP)
        await said(process, b"reloaded\n")
        process.send_signal(signal.SIGTERM)
        messages: list[bytes] = []
        while not messages or messages[-1] != b"STOPPING=1":
            messages.append(await hear(sock))
        assert (b"WATCHDOG=1" in messages) is is_fed
        assert await process.wait() == 0


async def written(path: Path, text: str) -> None:
    """Wait until another process has written `text`; nothing but looking tells."""
    file = trio.Path(path)
    while not await file.exists() or text not in await file.read_text():  # noqa: ASYNC110
        await trio.sleep(0.01)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """systemd's end of the notification socket, and what $NOTIFY_SOCKET says."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(name)
        yield sock, name


async def hear(sock: socket.socket) -> bytes:
    """Return the next message to systemd."""
    await trio.lowlevel.wait_readable(sock)
    return sock.recv(4096)


async def test_service_manager_is_told_of_ready_watchdog_and_stopping(
    manager: tuple[socket.socket, str],
) -> None:
    sock, name = manager
    async with child("quick", NOTIFY_SOCKET=name, WATCHDOG_USEC="40000") as process:
        heard: set[bytes] = set()
        while not heard >= {b"READY=1", b"STATUS=serving", b"WATCHDOG=1"}:
            heard.add(await hear(sock))
        process.send_signal(signal.SIGTERM)
        while await hear(sock) != b"STOPPING=1":
            pass
        assert await process.wait() == 0


async def test_service_manager_is_asked_for_the_time_that_the_drain_may_take(
    manager: tuple[socket.socket, str],
) -> None:
    """A `[drain] timeout` over the unit's TimeoutStopSec was cut short by SIGKILL."""
    sock, name = manager
    async with child("slow", NOTIFY_SOCKET=name, ROOMCAST_DRAIN__TIMEOUT="5m") as process:
        process.send_signal(signal.SIGTERM)
        await said(process, b"draining\n")
        while not (heard := await hear(sock)).startswith(b"EXTEND_TIMEOUT_USEC="):
            pass
        assert 301 < int(heard.partition(b"=")[2]) / 1e6 <= 302
        assert await hear(sock) == b"STATUS=draining, 300 s at most"


STALLING = """
import sys
import time
import trio
from runtime.lifecycle import run_service
from runtime.sections import DrainLimits, Log, ServiceSettings

class Settings(ServiceSettings, frozen=True):
    log: Log = Log()
    drain: DrainLimits = DrainLimits()

async def serve(settings, drain, log, *, task_status):
    task_status.started("ready")
    await trio.to_thread.run_sync(sys.stdin.readline)
    print("stalling", flush=True)
    sys.stdin.readline()  # blocks the loop until told to go on
    await drain.draining.wait()

sys.exit(run_service("child", Settings, serve, conf=None, announce=lambda text: print(text, flush=True)))
"""


async def test_stalled_loop_stops_feeding_the_watchdog_although_the_process_lives(
    manager: tuple[socket.socket, str],
) -> None:
    sock, name = manager
    async with child("", STALLING, NOTIFY_SOCKET=name, WATCHDOG_USEC="40000") as process:
        assert process.stdin is not None
        while await hear(sock) != b"WATCHDOG=1":
            pass
        await process.stdin.send_all(b"stall\n")
        await said(process, b"stalling\n")
        with suppress(BlockingIOError):
            while True:  # what was said before the loop stalled
                sock.recv(4096)
        with trio.move_on_after(0.4):  # twenty times the interval
            pytest.fail(f"the stalled loop has said {await hear(sock)!r}")
        await process.stdin.send_all(b"go on\n")
        while await hear(sock) != b"WATCHDOG=1":
            pass
