"""One worker: a process that is started, missed when it dies, ended when it is late, and started again.

Worker.run
 `- per process: one watcher, which ends it when it is late
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Mapping, Sequence
from subprocess import PIPE
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

from conn_server.workers.health import Health, State
from runtime.failures import SetupError
from runtime.lifecycle import EXIT_SETUP

LOOK_AGAIN_S: Final = 1.0
"""Whoever seems late is looked at again: perhaps it was us who did not listen."""
ABORT_S: Final = 2.0
"""For SIGABRT, on which faulthandler shows where the process stands; then comes SIGKILL."""
# Until a worker obeys signals SIGTERM just ends it.
CLEAN_ENDS: Final = (0, -signal.SIGTERM)


class Worker:
    """One worker, process after process.  Owned by the supervisor; its task is `run`.

    Args:
        number: from 0.
        command: program and arguments.
        environ: the whole environment of the process.
        feed_s: the longest time between two of its signs of life.
        changed: called when its state may have changed.
        log: of the supervisor.

    Attributes:
        number: the same.
        health: what is known about it.
        settled: set when it has been ready once, or has ended for other reasons than its settings.
        opened: set but while a process is being made, which may speak before its pid is known.
        exit_code: of the last process; None while one runs, and if none had to be stopped.
    """

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        environ: Mapping[str, str],
        feed_s: float,
        changed: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        self.number = number
        self.health = Health(feed_s)
        self.settled = trio.Event()
        self.opened = trio.Event()
        self.opened.set()
        self.exit_code: int | None = None
        self._command = command
        self._environ = environ
        self._changed = changed
        self._log = log.bind(worker=number)
        self._process: trio.Process | None = None
        self._held = trio.Event()
        self._owes_reload = False

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        return self._process.pid if self._process is not None else None

    @property
    def is_clean(self) -> bool:
        """Whether its last process, asked to stop, did so by itself."""
        return self.exit_code is None or self.exit_code in CLEAN_ENDS

    def hear(self, said: Sequence[str]) -> None:
        """Take what the process says about itself."""
        for assignment in said:
            self.health.heard(assignment, trio.current_time())
        if self.health.state is State.SERVING:
            self.settled.set()
            if self._owes_reload:
                self.reload()
        self._changed()

    def reload(self) -> None:
        """Pass SIGHUP on; a process that would still die of it gets it as soon as it is ready."""
        self._owes_reload = self.health.state is State.STARTING
        if self._process is not None and not self._owes_reload:
            self._process.send_signal(signal.SIGHUP)

    def hold(self) -> None:
        """Start no other process."""
        self._held.set()
        if self._process is None:
            self.exit_code = None  # what was before was not asked to stop

    def stop(self) -> bool:
        """Let the process drain; return whether there is one."""
        if self._process is None:
            return False
        self._process.terminate()
        return True

    async def run(self) -> None:
        """Keep a process running until it is held and stopped; cancelling kills it and leaves nothing.

        Raises:
            SetupError: the first one has found something to be mended in the settings, and has said what.
        """
        while not self._held.is_set():
            process = await self._open()
            if process is not None:
                await self._watch(process)
            if self.exit_code == EXIT_SETUP and not self.health.has_served:
                raise SetupError(f"worker {self.number} cannot start, for the reason given above")
            self.settled.set()
            if self._held.is_set():
                return
            pause_s = self.health.pause_s(random.random())  # noqa: S311  jitter needs no secrecy
            self._log.warning("worker is started again", pause_s=round(pause_s, 3))
            with trio.move_on_after(pause_s):
                await self._held.wait()
        self.settled.set()

    async def _open(self) -> trio.Process | None:
        self.exit_code = None
        await trio.lowlevel.checkpoint_if_cancelled()
        self.opened = trio.Event()
        try:
            with trio.CancelScope(shield=True):  # no process without an owner
                # A session of its own: Ctrl-C in a terminal goes to us alone, and we stop in steps.
                process = await trio.lowlevel.open_process(
                    self._command, stdin=PIPE, env=self._environ, start_new_session=True
                )
            self._process = process
        except OSError as exc:
            self.health.not_started()
            self._log.error("worker cannot be started", error=str(exc))
            return None
        finally:
            self.opened.set()
        self.health.started(trio.current_time())
        self._changed()
        self._log.info("worker started", pid=process.pid)
        return process

    async def _watch(self, process: trio.Process) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_late, process)
                if self._held.is_set():  # while it was being started
                    process.terminate()
                await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            process.kill()  # does nothing to one that has ended
            with trio.CancelScope(shield=True):
                exit_code = await process.wait()
                assert process.stdin is not None  # noqa: S101  opened as a pipe above
                await process.stdin.aclose()
            self._note_end(process.pid, exit_code)

    def _note_end(self, pid: int, exit_code: int) -> None:
        self._process = None
        self.exit_code = exit_code
        reason = self.health.ended(exit_code, trio.current_time())
        self._changed()
        say = self._log.info if self._held.is_set() and self.is_clean else self._log.error
        say("worker ended", pid=pid, reason=reason, exit_code=exit_code)

    async def _end_when_late(self, process: trio.Process) -> None:
        health = self.health
        while not health.is_late(trio.current_time()):
            # READY=1 brings the deadline nearer, but never nearer than this.
            await trio.sleep_until(min(health.due, trio.current_time() + health.feed_s))
            if health.is_late(trio.current_time()):
                await trio.sleep(LOOK_AGAIN_S)
        self._log.error("worker does not answer", pid=process.pid, reason=health.blame())
        process.send_signal(signal.SIGABRT)
        await trio.sleep(ABORT_S)
        process.kill()
