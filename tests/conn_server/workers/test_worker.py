from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from conn_server.workers import health, worker as worker_module
from conn_server.workers.health import State
from conn_server.workers.worker import Worker
from runtime.failures import SetupError
from tests.conn_server.workers.played import COMMAND, Heard

pytestmark = pytest.mark.usefixtures("no_leaks")

FOR_EVER_S = 600.0


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what is waited for."""
    monkeypatch.setattr(worker_module, "LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr(worker_module, "ABORT_S", 0.1)
    monkeypatch.setattr(health, "SHORTEST_PAUSE_S", 0.02)


@dataclass
class Kept:
    """A worker whose supervisor the test plays."""

    worker: Worker
    heard: Heard
    changes: list[State]
    run: Callable[[], None]

    async def started(self, times: int = 1) -> int:
        pid = (await self.heard.wait("worker started", times))["pid"]
        assert isinstance(pid, int)
        return pid

    async def ended(self, times: int = 1) -> tuple[str, int]:
        line = await self.heard.wait("worker ended", times)
        return line["reason"], line["exit_code"]


@asynccontextmanager
async def kept(
    folder: Path, manner: str = "", command: tuple[str, ...] = COMMAND, feed_s: float = FOR_EVER_S
) -> AsyncIterator[Kept]:
    """Run a worker; leaving stops it."""
    heard = Heard()
    changes: list[State] = []
    environ = {"MANNER": manner, "FOLDER": str(folder)}
    worker = Worker(1, command, environ, feed_s, lambda: changes.append(worker.health.state), heard.log)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            yield Kept(worker, heard, changes, lambda: nursery.start_soon(worker.run))
            worker.hold()
            worker.stop()


async def test_worker_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with kept(tmp_path) as one:
        one.run()
        first = await one.started()
        one.worker.hear(["READY=1"])
        assert one.worker.settled.is_set()
        assert one.worker.pid == first
        os.kill(first, signal.SIGKILL)
        assert await one.ended() == ("killed", -signal.SIGKILL)
        assert await one.started(times=2) != first
    assert one.changes[:4] == [State.STARTING, State.SERVING, State.STOPPED, State.STARTING]
    assert one.worker.health.ends["killed"] >= 1
    assert one.worker.pid is None


async def test_worker_that_ends_without_being_asked_is_started_again(tmp_path: Path) -> None:
    async with kept(tmp_path, "once:fails") as one:
        one.run()
        assert await one.ended() == ("failed", 1)
        await one.started(times=2)
        assert one.worker.exit_code is None


async def test_first_process_that_refuses_its_settings_ends_it_all(tmp_path: Path) -> None:
    async with kept(tmp_path, "misset") as one:
        with pytest.raises(SetupError, match=r"^worker 1 cannot start, for the reason given above$"):
            await one.worker.run()
        assert not one.worker.settled.is_set()
        assert one.worker.health.ends == {"setup": 1}


async def test_settings_that_have_served_once_are_tried_again(tmp_path: Path) -> None:
    """The port may have been taken for a moment; that is no reason to take the other workers down."""
    async with kept(tmp_path, "once:misset") as one:
        one.worker.health.has_served = True
        one.run()
        assert await one.ended() == ("setup", 2)
        await one.started(times=2)


async def test_worker_that_gives_no_sign_of_life_is_aborted_and_started_again(tmp_path: Path) -> None:
    async with kept(tmp_path, feed_s=0.1) as one:
        one.run()
        await one.started()
        one.worker.hear(["READY=1"])
        assert await one.ended() == ("stalled", -signal.SIGABRT)
        assert one.heard.find("worker does not answer", reason="no sign of life for 100ms")
        await one.started(times=2)


async def test_worker_that_does_not_even_abort_is_killed(tmp_path: Path) -> None:
    async with kept(tmp_path, feed_s=0.1) as one:
        one.run()
        pid = await one.started()
        os.kill(pid, signal.SIGSTOP)
        one.worker.hear(["READY=1"])
        assert await one.ended() == ("stalled", -signal.SIGKILL)


async def test_worker_that_does_not_get_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "START_WITHIN_S", 0.1)
    async with kept(tmp_path) as one:
        one.run()
        reason, _ = await one.ended()
        assert reason == "not_ready"
        await one.started(times=2)


class Stood:
    """A process that stands still, and what it was sent."""

    pid = 1

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send_signal(self, number: int) -> None:
        self.sent.append(number)

    def kill(self) -> None:
        self.sent.append(signal.SIGKILL)


async def test_worker_that_we_did_not_listen_to_is_looked_at_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that was stopped for a minute finds all workers late, and what they said in its socket."""
    monkeypatch.setattr(worker_module, "LOOK_AGAIN_S", 1.0)
    worker, process = Worker(0, (), {}, 15.0, lambda: None, Heard().log), Stood()
    worker.health.started(trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker._end_when_late, cast("trio.Process", process))
        await trio.sleep(10)
        worker.hear(["READY=1"])
        await trio.sleep(15.5)
        assert worker.health.is_late(trio.current_time())
        worker.hear(["WATCHDOG=1"])
        await trio.sleep(15.5)
        assert process.sent == []
        began = trio.current_time()
    assert process.sent == [signal.SIGABRT, signal.SIGKILL]
    assert trio.current_time() - began == pytest.approx(0.5 + worker_module.ABORT_S)


async def test_program_that_cannot_be_started_is_counted_and_tried_again(tmp_path: Path) -> None:
    async with kept(tmp_path, command=(str(tmp_path / "nothing"),)) as one:
        one.run()
        await one.heard.wait("worker cannot be started", times=2)
    assert one.worker.health.ends["not_started"] >= 2
    assert one.worker.is_clean


async def test_worker_that_is_held_while_it_waits_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "SHORTEST_PAUSE_S", FOR_EVER_S)
    async with kept(tmp_path, "fails") as one:
        one.run()
        await one.heard.wait("worker is started again")
        assert not one.worker.is_clean
        one.worker.hold()
        assert not one.worker.stop()
    assert len(one.heard.find("worker started")) == 1
    assert one.worker.is_clean, "it was not asked to stop"


async def test_worker_that_is_held_before_it_runs_is_settled_and_never_started(tmp_path: Path) -> None:
    async with kept(tmp_path) as one:
        one.worker.hold()
        await one.worker.run()
        assert one.worker.settled.is_set()
        assert one.heard.lines == []


async def test_worker_that_is_held_while_it_is_being_started_stops(tmp_path: Path) -> None:
    async with kept(tmp_path) as one:
        one.run()
        while one.worker.opened.is_set() and not one.changes:
            await trio.lowlevel.checkpoint()
        one.worker.hold()  # its process is being made, in a thread
    assert len(one.heard.find("worker started")) == 1
    assert one.worker.is_clean


async def test_cancelled_worker_leaves_no_process(tmp_path: Path) -> None:
    async with kept(tmp_path) as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.worker.run)
        pid = await one.started()
        nursery.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert await one.ended() == ("killed", -signal.SIGKILL)


async def test_hang_up_waits_for_a_process_that_would_die_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    async with kept(tmp_path) as one:
        one.worker.reload()  # there is nobody to send it to
        one.run()
        await one.started()
        with monkeypatch.context() as patch:
            patch.setattr(trio.Process, "send_signal", lambda _, number: sent.append(number))
            one.worker.reload()
            assert sent == []
            one.worker.hear(["READY=1"])
            assert sent == [signal.SIGHUP]
            one.worker.hear(["WATCHDOG=1"])
            assert sent == [signal.SIGHUP]
            one.worker.reload()
            assert sent == [signal.SIGHUP, signal.SIGHUP]
