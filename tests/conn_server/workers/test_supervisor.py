from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from conn_server.settings import ConnSettings
from conn_server.workers import health, worker as worker_module
from conn_server.workers.notices import Notice, Notices
from conn_server.workers.supervisor import Supervisor, WorkersFailed
from runtime.failures import setup_problems
from runtime.lifecycle import Drain
from runtime.settings import load
from runtime.systemd import open_notifier
from tests.conn_server.workers.played import COMMAND, Heard

pytestmark = pytest.mark.usefixtures("no_leaks")

WATCHDOG_USEC = "4000000"
GIVEN = {
    "websocket.workers": 3,
    "websocket.bind": "127.0.0.1:0",
    "srv.listenAddr": "127.0.0.1:0",
    "drain.timeout": "10s",
    "drain.workerInterval": "1ms",
}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SHORTEST_PAUSE_S", 0.02)
    monkeypatch.setattr(worker_module, "LOOK_AGAIN_S", 0.05)


@dataclass
class Host:
    """A supervisor of played workers; `nursery` is there to run it in."""

    supervisor: Supervisor
    heard: Heard
    drain: Drain
    settings: ConnSettings
    ready: trio.Event
    nursery: trio.Nursery

    async def serve(self) -> None:
        await self.supervisor.serve(self.settings, self.drain, self.heard.log, task_status=self)

    def started(self, value: str | None = None) -> None:
        assert value is not None
        assert value.startswith("127.0.0.1:")
        assert not value.endswith(":0")
        self.ready.set()

    async def pid(self, number: int, times: int = 1) -> int:
        pid = (await self.heard.wait("worker started", times, worker=number))["pid"]
        assert isinstance(pid, int)
        return pid

    async def readyz(self) -> tuple[int, dict[str, str]]:
        (line,) = self.heard.find("supervising")
        host, _, port = line["admin"].rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join([bytes(chunk) async for chunk in stream])
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["reasons"]

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(10):
            while not condition():  # noqa: ASYNC110  what is waited for sets no event
                await trio.sleep(0.005)


@asynccontextmanager
async def host(folder: Path, manner: str = "", **given: object) -> AsyncIterator[Host]:
    """Make a supervisor; leaving drains it, or what is left of it."""
    environ = {"MANNER": manner, "FOLDER": str(folder), "WATCHDOG_USEC": WATCHDOG_USEC}
    overrides = {**GIVEN, **{name.replace("__", "."): value for name, value in given.items()}}
    settings = load(ConnSettings, None, {}, overrides).settings
    drain = Drain(settings.drain.timeout_s)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            yield Host(Supervisor(COMMAND, environ), Heard(), drain, settings, trio.Event(), nursery)
            drain.start()


async def test_it_is_ready_when_all_workers_are_and_drains_them_one_after_the_other(tmp_path: Path) -> None:
    async with host(tmp_path, websocket__workers=2, drain__workerInterval="600ms") as one:
        one.nursery.start_soon(one.serve)
        await one.ready.wait()
        assert one.supervisor.statistics().state == {"stopped": 0, "starting": 0, "serving": 2, "draining": 0}
        assert await one.readyz() == (200, {})
        assert one.supervisor.is_alive()
        one.drain.start()
        begun = trio.current_time()
        await one.heard.wait("worker ended", worker=0)
        assert one.heard.find("worker ended", worker=1) == []
        status, reasons = await one.readyz()
        assert (status, reasons["drain"]) == (503, "draining")
        await one.heard.wait("worker ended", worker=1)
        assert trio.current_time() - begun >= 0.6
    ends = [(line["worker"], line["reason"]) for line in one.heard.find("worker ended")]
    assert ends == [(0, "drained"), (1, "drained")]


async def test_worker_that_dies_is_started_again_and_the_others_do_not_notice(tmp_path: Path) -> None:
    async with host(tmp_path) as one:
        one.nursery.start_soon(one.serve)
        await one.ready.wait()
        pids = [await one.pid(number) for number in range(3)]
        os.kill(pids[1], signal.SIGKILL)
        await one.heard.wait("worker ended", worker=1, reason="killed", exit_code=-9)
        assert one.supervisor.statistics().state["serving"] < 3
        assert await one.pid(1, times=2) != pids[1]
        await one.until(lambda: one.supervisor.statistics().state["serving"] == 3)
        assert await one.readyz() == (200, {})
        assert one.supervisor.statistics().ended == {"killed": 1}
        assert len(one.heard.find("worker started")) == 4


async def test_worker_that_is_away_is_named_on_the_page(tmp_path: Path) -> None:
    async with host(tmp_path, "slow", websocket__workers=2) as one:
        one.nursery.start_soon(one.serve)
        await one.pid(0)
        assert await one.readyz() == (503, {"worker 0": "starting", "worker 1": "stopped"})
        assert one.heard.find("worker started", worker=1) == [], "the first shows whether the settings hold"
        one.drain.start()
        await one.until(lambda: one.supervisor.statistics().state["stopped"] == 2)
    assert not one.ready.is_set()
    assert len(one.heard.find("worker started")) == 1


async def test_settings_that_no_worker_takes_are_said_once(tmp_path: Path) -> None:
    async with host(tmp_path, "misset") as one:
        with pytest.raises(ExceptionGroup) as caught:
            await one.serve()
        assert setup_problems(caught.value) == ["worker 0 cannot start, for the reason given above"]
        assert len(one.heard.find("worker started")) == 1
        assert not one.ready.is_set()


async def test_first_worker_that_fails_otherwise_does_not_keep_the_others_from_serving(
    tmp_path: Path,
) -> None:
    async with host(tmp_path, "once:fails") as one:
        one.nursery.start_soon(one.serve)
        await one.ready.wait()
        assert one.supervisor.statistics().ended == {"failed": 3}


async def test_worker_that_stalls_is_not_alive_and_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = trio.Event()
    alive: list[bool] = []
    blame = health.Health.blame

    def note(self: health.Health) -> str:
        alive.append(one.supervisor.is_alive())
        gate.set()
        return blame(self)

    monkeypatch.setattr(health.Health, "blame", note)
    async with host(tmp_path, "once:stalls", websocket__workers=2) as one:
        one.nursery.start_soon(one.serve)
        await one.ready.wait()
        await gate.wait()
        await one.heard.wait("worker ended", times=2, reason="stalled")
        await one.until(lambda: one.supervisor.statistics().state["serving"] == 2)
        assert one.supervisor.is_alive()
        assert one.supervisor.statistics().ended == {"stalled": 2}
    assert alive[0] is False


async def test_hang_up_reaches_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    take = health.Health.heard

    def note(self: health.Health, said: str, now: float) -> None:
        heard.append(said)
        take(self, said, now)

    monkeypatch.setattr(health.Health, "heard", note)
    async with host(tmp_path) as one:
        one.nursery.start_soon(one.serve)
        await one.ready.wait()
        one.supervisor.reload()
        await one.until(lambda: heard.count("STATUS=reloaded") == 3)


async def test_worker_that_is_ready_before_its_pid_is_known_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine READY=1 was taken for a stranger's, and its worker never counted as ready."""
    received = trio.Event()
    receive, open_process = Notices.receive, trio.lowlevel.open_process

    async def note(self: Notices) -> Notice:
        notice = await receive(self)
        received.set()
        return notice

    async def open_late(*command: Any, **options: Any) -> trio.Process:
        process = await open_process(*command, **options)
        await received.wait()
        return process

    monkeypatch.setattr(Notices, "receive", note)
    monkeypatch.setattr(trio.lowlevel, "open_process", open_late)
    async with host(tmp_path, websocket__workers=2) as one:
        one.nursery.start_soon(one.serve)
        await one.ready.wait()
        assert one.supervisor.statistics().strange_notices == 0


async def test_what_strangers_say_is_counted_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host(tmp_path, "slow", websocket__workers=2) as one:
        one.nursery.start_soon(one.serve)
        await one.pid(0)
        (worker, _) = one.supervisor._workers
        with open_notifier(worker._environ) as notifier:
            notifier.ready()
            await one.until(lambda: one.supervisor.statistics().strange_notices == 1)
        assert one.supervisor.statistics().state["serving"] == 0


async def test_workers_that_do_not_drain_well_are_named(tmp_path: Path) -> None:
    failures: list[str] = []

    async def serve() -> None:
        try:
            await one.serve()
        except WorkersFailed as exc:
            failures.append(str(exc))

    async with host(tmp_path, "drains badly", websocket__workers=2) as one:
        one.nursery.start_soon(serve)
        await one.ready.wait()
    assert failures == ["not drained: worker 0: exit code 1, worker 1: exit code 1"]


async def test_cancelled_supervisor_leaves_no_process(tmp_path: Path) -> None:
    async with host(tmp_path) as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.serve)
        await one.ready.wait()
        pids = [await one.pid(number) for number in range(3)]
        nursery.cancel_scope.cancel()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
