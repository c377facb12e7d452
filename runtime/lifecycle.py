"""The life of a service as a process: settings, logs, signals, one deadline for the drain, an exit code.

SIGTERM, SIGINT   the first starts the drain, the second cancels everything, the third ends the process
SIGHUP            the log file is reopened

systemd, where it is there, hears READY=1, WATCHDOG=1 from the loop until the end, STOPPING=1, and how long
the drain may take.

exit code   0  drained           1  failed, or not drained in time
            2  could not start   128 + n  ended by the second signal
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

import trio
from structlog.typing import FilteringBoundLogger

from runtime.failures import setup_problems
from runtime.garbage import Garbage
from runtime.logs import open_logs
from runtime.sections import ServiceSettings
from runtime.settings import describe, load
from runtime.systemd import Notifier, feed_watchdog, open_notifier, watchdog_interval_s

EXIT_DRAINED: Final = 0
EXIT_FAILED: Final = 1
EXIT_SETUP: Final = 2
EXIT_SIGNAL: Final = 128
OVERTIME_S: Final = 1.0
"""How long after the drain's deadline a service that has not noticed it is cancelled."""

S = TypeVar("S", bound=ServiceSettings)
S_contra = TypeVar("S_contra", bound=ServiceSettings, contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Drain:
    """The graceful stop of a process, with one deadline for all of it.  Owned by the composition root.

    Attributes:
        draining: set when the drain has begun.
        deadline: in Trio's time; infinite until then.
        timeout_s: from the beginning to the deadline.
    """

    def __init__(self, timeout_s: float) -> None:
        self.draining = trio.Event()
        self.deadline = inf
        self.timeout_s = timeout_s

    def start(self) -> None:
        """Begin to drain; calling it again changes nothing, the deadline included."""
        if not self.draining.is_set():
            self.deadline = trio.current_time() + self.timeout_s
            self.draining.set()

    def remaining_s(self) -> float:
        """Return how much time is left, 0 at least."""
        return max(0.0, self.deadline - trio.current_time())


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a service does besides where the process obeys, for one that has processes of its own.

    Attributes:
        reload: called on SIGHUP, after the log file is reopened.
        is_alive: asked before each WATCHDOG=1; denying it for long enough makes systemd end the service.
    """

    reload: Callable[[], None] = lambda: None
    is_alive: Callable[[], bool] = lambda: True


class Serve(Protocol[S_contra, R_co]):
    """A service's composition root: serves until `drain` has begun and what is under way is done."""

    async def __call__(
        self,
        settings: S_contra,
        drain: Drain,
        log: FilteringBoundLogger,
        *,
        task_status: trio.TaskStatus[R_co],
    ) -> None:
        """Serve; `task_status.started(what)` once clients can come."""


class _Process(Generic[R]):
    """One service while it runs.  Owned by `run_service`."""

    def __init__(
        self, drain: Drain, log: FilteringBoundLogger, notifier: Notifier, announce: Callable[[R], None]
    ) -> None:
        self.drain = drain
        self.exit_code = EXIT_DRAINED
        self.is_started = False
        self._log = log
        self._notifier = notifier
        self._announce = announce
        self._scope = trio.CancelScope()

    def started(self, value: R | None = None) -> None:
        """Take the service's word that clients can come; this object is its `task_status`."""
        self.is_started = True
        self._announce(value)  # type: ignore[arg-type]  # None only where R is None
        if not self.drain.draining.is_set():
            self._notifier.ready()
            self._notifier.status("serving")

    def cancel(self, exit_code: int) -> None:
        """End the service without waiting for what is under way."""
        self.exit_code = exit_code
        self._scope.cancel()

    async def run(self, serve: Serve[S, R], settings: S, hooks: Hooks, watchdog_s: float | None) -> None:
        """Run the service until it has drained or is cancelled."""
        with Garbage() as garbage:
            await self._run(serve, settings, hooks, watchdog_s, garbage)

    async def _run(
        self, serve: Serve[S, R], settings: S, hooks: Hooks, watchdog_s: float | None, garbage: Garbage
    ) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._obey_signals, hooks.reload)
            nursery.start_soon(self._keep_time)
            nursery.start_soon(garbage.run)
            if watchdog_s is not None:
                nursery.start_soon(feed_watchdog, self._notifier, watchdog_s, hooks.is_alive)
            with self._scope:
                await serve(settings, self.drain, self._log, task_status=self)
            nursery.cancel_scope.cancel()

    async def _obey_signals(
        self, reload: Callable[[], None], *, task_status: trio.TaskStatus[None]
    ) -> NoReturn:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            while True:
                await self._obey(signals, reload)

    async def _obey(self, signals: AsyncIterator[int], reload: Callable[[], None]) -> None:
        number = signal.Signals(await anext(signals))
        if number == signal.SIGHUP:
            reload()
            self._log.info("log reopened")
        elif not self.drain.draining.is_set():
            self._log.info("draining", signal=number.name, timeout_s=self.drain.timeout_s)
            self.drain.start()
        elif not self._scope.cancel_called:
            self._log.warning("ending at once", signal=number.name)
            self.cancel(EXIT_SIGNAL + number)
        else:
            # Something does not let itself be cancelled; there is nothing left to be polite to.
            os._exit(EXIT_SIGNAL + number)

    async def _keep_time(self) -> None:
        await self.drain.draining.wait()
        self._notifier.stopping()
        self._notifier.extend_timeout(self.drain.remaining_s() + 2 * OVERTIME_S)
        self._notifier.status(f"draining, {self.drain.timeout_s:g} s at most")
        await trio.sleep_until(self.drain.deadline + OVERTIME_S)
        self._log.error("not drained in time", timeout_s=self.drain.timeout_s)
        self.cancel(EXIT_FAILED)


def run_service(  # noqa: PLR0913  all that a process needs, said in one place
    name: str,
    settings_type: type[S],
    serve: Serve[S, R],
    *,
    conf: Path | None,
    check: bool = False,
    environ: Mapping[str, str] | None = None,
    announce: Callable[[R], None] = lambda _: None,
    hooks: Hooks = Hooks(),
) -> int:
    """Run one service from its settings to its exit code; what `__main__` calls.

    Args:
        name: of the service, in messages and log lines.
        settings_type: its record.
        serve: its composition root.
        conf: the settings file; None is defaults and environment.
        check: print the effective settings and where they came from, and serve nothing.
        environ: the environment; None is the process's.
        announce: called with what `serve` has started, to tell a person where to go.
        hooks: of a service with processes of its own.

    Returns:
        The exit code, as listed at the top of this file.
    """
    environ = os.environ if environ is None else environ
    process: _Process[R] | None = None
    try:
        loaded = load(settings_type, conf, environ)
        if check:
            sys.stdout.write(describe(loaded))
            return EXIT_DRAINED
        settings = loaded.settings
        with open_logs(settings.log, sys.stderr) as logs, open_notifier(environ) as notifier:
            log: FilteringBoundLogger = logs.logger.bind(service=name)
            log.info("starting", settings=str(conf) if conf else "defaults")
            if loaded.without_meaning:
                log.info("settings without meaning here", keys=list(loaded.without_meaning))
            process = _Process(Drain(settings.drain.timeout_s), log, notifier, announce)
            watchdog_s = watchdog_interval_s(environ, os.getpid())

            def reload() -> None:
                logs.reopen()
                hooks.reload()

            own = replace(hooks, reload=reload)
            return _outcome(process, log, lambda: trio.run(process.run, serve, settings, own, watchdog_s))
    except KeyboardInterrupt:  # before the signals were ours
        return EXIT_SIGNAL + signal.SIGINT
    except Exception as exc:
        return _refuse(name, exc)


def _outcome(process: _Process[Any], log: FilteringBoundLogger, run: Callable[[], None]) -> int:
    """Run to the end; after the start, whatever comes out is a failure and logged with its traceback."""
    try:
        run()
    except Exception as exc:
        if not process.is_started and setup_problems(exc) is not None:
            raise
        log.exception("failed")
        return EXIT_FAILED
    log.info("stopped", exit_code=process.exit_code)
    return process.exit_code


def _refuse(name: str, error: Exception) -> int:
    """Print why the service does not start, one line each; what nobody expects keeps its traceback."""
    problems = setup_problems(error)
    if problems is None:
        raise error
    for problem in problems:
        sys.stderr.write(f"{name}: {problem}\n")
    return EXIT_SETUP
