"""The process that keeps the workers; it holds no client.

Supervisor.serve
 |- admin port, loop lag          outlive the workers
 |- listener                      takes what workers say about themselves
 `- one task per worker           starts it again; on drain they are stopped in steps

The client port is bound here for as long as the supervisor lives, but nobody listens at that socket: the
kernel spreads the connections over the workers' own sockets (SO_REUSEPORT).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import trio
from structlog.typing import FilteringBoundLogger

from conn_server.settings import ConnSettings
from conn_server.sockets import reserve_port
from conn_server.workers.health import State
from conn_server.workers.notices import Notices, open_notices
from conn_server.workers.plan import environment, stop_steps
from conn_server.workers.worker import Worker
from runtime.admin import Readiness, open_admin
from runtime.lifecycle import Drain
from runtime.systemd import watchdog_interval_s
from runtime.units import format_address, split_address

DEFAULT_FEED_S: Final = 15.0
"""The longest time between two signs of life of a worker, where systemd asks us for none."""


class WorkersFailed(Exception):
    """Workers did not drain; the text says which, and how they ended."""


@dataclass(frozen=True, slots=True)
class SupervisorStatistics:
    """Workers now by state, ends of their processes by reason, and messages of processes that are none."""

    state: dict[str, int]
    ended: dict[str, int]
    strange_notices: int


class Supervisor:
    """All workers of one host.  Owned by `__main__`; without `serve` it has none.

    Args:
        command: program and arguments of a worker.
        environ: our environment.
    """

    GAUGES: Final = ("state",)

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._command = command
        self._environ = environ
        self._workers: list[Worker] = []
        self._readiness = Readiness()
        self._all_ready = trio.Event()
        self._strange_notices = 0

    def reload(self) -> None:
        """Let every worker reopen its log file."""
        for worker in self._workers:
            worker.reload()

    def is_alive(self) -> bool:
        """Return whether no worker is late; systemd ends a supervisor that does not get rid of one."""
        return not any(worker.health.is_late(trio.current_time()) for worker in self._workers)

    def statistics(self) -> SupervisorStatistics:
        """Return the states, and the counts since the start."""
        states = dict.fromkeys(map(str, State), 0)
        ended: Counter[str] = Counter()
        for worker in self._workers:
            states[str(worker.health.state)] += 1
            ended.update(worker.health.ends)
        return SupervisorStatistics(states, dict(ended), self._strange_notices)

    async def serve(
        self,
        settings: ConnSettings,
        drain: Drain,
        log: FilteringBoundLogger,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the workers until `drain` has begun and all have ended; cancelling kills them.

        Args:
            settings: of the host; each worker's are made of them.
            drain: begins the stop, and has its deadline.
            log: for what an operator should know.
            task_status: gets the clients' address, once all workers are ready.

        Raises:
            runtime.failures.SetupError: what is to be mended in the settings; maybe in a group.
            WorkersFailed: not all of them have drained.
        """
        admin_address = settings.admin.address(settings.registration.listen_address)
        with reserve_port(settings.websocket) as port, open_notices() as notices:
            client_port = port.getsockname()[1]
            self._workers = self._make_workers(settings, notices.address, client_port, log)
            self._judge()
            async with (
                open_admin(admin_address, self._readiness, log) as admin,
                trio.open_nursery() as process,
            ):
                admin.metrics.register("workers", self.statistics, gauges=self.GAUGES)
                process.start_soon(self._listen, notices)
                address = format_address(split_address(settings.websocket.bind).host, client_port)
                log.info("supervising", workers=len(self._workers), clients=address, admin=admin.address)
                process.start_soon(self._tell_ready, address, task_status)
                async with trio.open_nursery() as working:
                    working.start_soon(self._run_workers)
                    await drain.draining.wait()
                    self._readiness.fail("drain", "draining")
                    await self._stop_in_steps(settings)
                process.cancel_scope.cancel()
        if failed := [worker for worker in self._workers if not worker.is_clean]:
            ends = ", ".join(f"worker {worker.number}: exit code {worker.exit_code}" for worker in failed)
            raise WorkersFailed(f"not drained: {ends}")

    def _make_workers(
        self, settings: ConnSettings, notices: str, client_port: int, log: FilteringBoundLogger
    ) -> list[Worker]:
        feed_s = watchdog_interval_s(self._environ, os.getpid()) or DEFAULT_FEED_S
        ours = {"NOTIFY_SOCKET": notices, "WATCHDOG_USEC": str(round(feed_s * 1e6))}
        inherited = {name: value for name, value in self._environ.items() if name != "WATCHDOG_PID"}
        workers = []
        for number in range(settings.websocket.workers):
            environ = {**environment(settings, number, inherited, client_port), **ours}
            workers.append(Worker(number, self._command, environ, feed_s, self._judge, log))
        return workers

    async def _run_workers(self) -> None:
        """Run all of them; the first alone until it shows whether the settings hold."""
        async with trio.open_nursery() as nursery:
            first, *others = self._workers
            nursery.start_soon(first.run)
            await first.settled.wait()
            for worker in others:
                nursery.start_soon(worker.run)

    async def _stop_in_steps(self, settings: ConnSettings) -> None:
        steps = stop_steps(len(self._workers), settings.drain.worker_interval_s, settings.drain.timeout_s)
        for worker in self._workers:
            worker.hold()
        for worker in self._workers:
            if worker.stop() and worker is not self._workers[-1]:
                await trio.sleep(steps.interval_s)

    async def _listen(self, notices: Notices) -> NoReturn:
        while True:
            pid, said = await notices.receive()
            for worker in self._workers:
                await worker.opened.wait()
                if worker.pid == pid:
                    worker.hear(said)
                    break
            else:
                self._strange_notices += 1

    async def _tell_ready(self, address: str, task_status: trio.TaskStatus[str]) -> None:
        await self._all_ready.wait()
        task_status.started(address)

    def _judge(self) -> None:
        """Bring `/readyz` up to date."""
        for worker in self._workers:
            condition, state = f"worker {worker.number}", worker.health.state
            if state is State.SERVING:
                self._readiness.meet(condition)
            else:
                self._readiness.fail(condition, str(state))
        if all(worker.health.state is State.SERVING for worker in self._workers):
            self._all_ready.set()
