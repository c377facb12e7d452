"""Carries out one load: starts the generator processes, watches the server, puts the parts together."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio
from msgspec.json import Decoder, Encoder

from bench.generator import Report, first_of
from bench.opening import OPEN_TIMEOUT_S
from bench.outcome import Total, total_of
from bench.plan import Load, Plan, Target, Window
from bench.procstat import Usage, cores_of, spent
from bench.result import Result, Sample, Server
from bench.schedule import NS
from bench.watched import Watched

ROOT: Final = Path(__file__).resolve().parent.parent
SETTLE_S: Final = 0.3
"""Between the last sign-in and the look at the server's memory, and from there to the beginning."""
SAMPLE_S: Final = 0.5
STORM_LOOK_S: Final = 0.05
"""Between two looks at the server under a storm, which says only afterwards when it was over."""
OPENED_WITHIN_S: Final = 2 * OPEN_TIMEOUT_S + 30.0  # beyond the planned time; some open twice
REASONS: Final = 3  # shown
DONE_WITHIN_S: Final = 60.0  # beyond the planned time

read_report = Decoder(Report).decode
write = Encoder().encode

Watch = Callable[[str, float, Sample], None]
"""Told of (phase, share done, state) twice a second."""


class GeneratorFailed(Exception):
    """A generator process has ended early; the text is what it said."""


class NobodyIn(Exception):
    """No client could sign in, so there is nothing to measure; the text says what became of them."""


@dataclass(slots=True)
class Generator:
    """One generator process, as its coordinator sees it."""

    process: trio.Process
    last: Report = field(default_factory=lambda: Report("progress", 0, 0, 0))
    opened: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    reports: dict[str, Report] = field(default_factory=dict)

    async def tell(self, line: bytes) -> None:
        """Send one line."""
        pipe = self.process.stdin
        if pipe is not None:
            await pipe.send_all(line + b"\n")

    async def listen(self) -> None:
        """Take reports until the process is done.

        Raises:
            GeneratorFailed: it ended before.
        """
        buffer = b""
        if self.process.stdout is None:
            return
        async for data in self.process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self._take(read_report(line))
        if not self.done.is_set():
            said = b"" if self.process.stderr is None else await self.process.stderr.receive_some(65536)
            raise GeneratorFailed(
                said.decode(errors="replace").strip() or "a generator process has ended early"
            )

    def _take(self, report: Report) -> None:
        self.last = report
        self.reports[report.kind] = report
        if report.kind == "opened":
            self.opened.set()
        elif report.kind == "done":
            self.done.set()


@asynccontextmanager
async def open_generators(plans: Sequence[Plan]) -> AsyncIterator[list[Generator]]:
    """Start one process for each plan; they are ended, gently or not, with the context.

    Raises:
        GeneratorFailed: one of them ended early; what runs in the context is cancelled then.
    """
    generators: list[Generator] = []
    try:
        async with trio.open_nursery() as nursery:
            for plan in plans:
                generator = Generator(await start_generator())
                generators.append(generator)
                await generator.tell(write(plan))
                nursery.start_soon(generator.listen)
            yield generators
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise first_of(group) from None
    finally:
        with trio.CancelScope(shield=True):
            for generator in generators:
                await end(generator.process)


async def start_generator() -> trio.Process:
    """Start one generator process; the caller ends it."""
    return await trio.lowlevel.open_process(
        [sys.executable, "-m", "bench.generator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )


async def end(process: trio.Process, grace_s: float = 2.0) -> None:
    """See that a child process ends: by closing its stdin, then by a signal."""
    with trio.move_on_after(grace_s):
        if process.stdin is not None:
            await process.stdin.aclose()
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            await pipe.aclose()


class Coordinator:
    """One run of a load; made for it alone."""

    def __init__(self, target: Target, load: Load, pids: Sequence[int], watch: Watch) -> None:
        self._target = target
        self._load = load
        self._server = Watched(pids)
        self._watch = watch
        self._samples: list[Sample] = []

    async def run(self, processes: int, cpu: int | None) -> Result:
        """Carry out the load.

        Raises:
            GeneratorFailed: a generator could not.
            NobodyIn: no client could sign in.
            bench.procstat.Gone: the server is not there at the beginning.
        """
        began_at = datetime.now(UTC).isoformat(timespec="seconds")
        run = time.time_ns() & 0xFFFFFFFF
        plans = [
            Plan(target=self._target, load=self._load, run=run, process=n, processes=processes, cpu=cpu)
            for n in range(processes)
        ]
        before, files, cores = self._server.look(), self._server.files(), cores_of(self._server.pids)
        async with open_generators(plans) as generators:
            await self._wait_until_opened(generators)
            await trio.sleep(SETTLE_S)
            opened, opened_usage = reported(generators, "opened"), self._server.look()
            self._check_opened(opened)
            files_added = [max(0, now - had) for had, now in zip(files, self._server.files(), strict=True)]
            begin_ns, end_ns = await self._measure(generators)
        server = None
        if self._server.pids:
            server = Server(
                pids=self._server.pids,
                rss_bytes=before.rss_bytes,
                opening=spent(before, opened_usage),
                measured=spent(self._server.since(begin_ns), self._server.since(end_ns)),
                fullest=max(files_added) / max(1, sum(files_added)),
                cores=cores,
                gone=self._server.gone,
            )
        return Result(
            url=self._target.url,
            version=self._target.version,
            load=self._load,
            processes=processes,
            began_at=began_at,
            machine=machine(),
            opened=opened,
            opening_s=opened.count("opening_ns") / NS,
            total=reported(generators, "done"),
            server=server,
            samples=tuple(self._samples),
        )

    async def _wait_until_opened(self, generators: Sequence[Generator]) -> None:
        wanted = self._load.residents if self._load.workload == "storm" else self._load.connections
        give_up_at = trio.current_time() + self._load.opening_s + OPENED_WITHIN_S
        while not all(generator.opened.is_set() for generator in generators):
            signed_in = sum(generator.last.signed_in for generator in generators)
            self._watch("opening", signed_in / max(1, wanted), Sample(0, signed_in, 0, 0, 0))
            if trio.current_time() > give_up_at:
                raise GeneratorFailed("the clients were not opened in time")
            with trio.move_on_after(SAMPLE_S):
                for generator in generators:
                    await generator.opened.wait()

    def _check_opened(self, opened: Total) -> None:
        load = self._load
        wanted = load.residents if load.workload == "storm" else load.connections
        if wanted and not opened.count("connections"):
            reasons = sorted(opened.problems.items(), key=lambda item: -item[1])[:REASONS]
            said = "; ".join(f"{count} x {reason}" for reason, count in reasons)
            raise NobodyIn(f"none of {wanted} clients could sign in: {said}")

    async def _measure(self, generators: Sequence[Generator]) -> tuple[int, int]:
        """Carry all generators through the load; return from when to when the server's CPU counts."""
        load = self._load
        start = time.monotonic_ns() + int(SETTLE_S * NS)
        opens = start + int(load.ramp_s * NS)
        window = Window(start, opens, opens + int(load.duration_s * NS))
        for generator in generators:
            await generator.tell(write(window))
        await sleep_until(window.open_ns)
        is_storm = load.workload == "storm"
        async with trio.open_nursery() as nursery:
            if is_storm:
                nursery.start_soon(self._look_often, window.storm_ns)
            await self._watch_until_done(generators, window)
            nursery.cancel_scope.cancel()
        if is_storm:
            return window.storm_ns, window.storm_ns + reported(generators, "done").count("storm_ns")
        return window.open_ns, window.end_ns

    async def _look_often(self, since_ns: int) -> None:
        await sleep_until(since_ns)
        while True:
            self._server.look()
            await trio.sleep(STORM_LOOK_S)

    async def _watch_until_done(self, generators: Sequence[Generator], window: Window) -> None:
        latest = self._server.look()
        units = sum(generator.last.units for generator in generators)
        while time.monotonic_ns() < window.end_ns:
            await sleep_until(min(window.end_ns, latest.at_ns + int(SAMPLE_S * NS)))
            latest, units = self._sample(generators, latest, units, window)
        with trio.move_on_after(self._load.drain_s + DONE_WITHIN_S):
            for generator in generators:
                await generator.done.wait()
            return
        raise GeneratorFailed("a generator does not come to its end")

    def _sample(
        self, generators: Sequence[Generator], before: Usage, units_before: int, window: Window
    ) -> tuple[Usage, int]:
        usage = self._server.look()
        used = spent(before, usage)
        units = sum(generator.last.units for generator in generators)
        sample = Sample(
            at_s=(usage.at_ns - window.start_ns) / NS,
            signed_in=sum(generator.last.signed_in for generator in generators),
            rate=(units - units_before) * NS / max(1, used.wall_ns),
            cores=used.cores,
            rss_bytes=usage.rss_bytes,
        )
        self._samples.append(sample)
        done = (usage.at_ns - window.open_ns) / (window.end_ns - window.open_ns)
        self._watch("measuring", min(1.0, done), sample)
        return usage, units


def reported(generators: Sequence[Generator], kind: str) -> Total:
    """Add up the outcomes of one kind of report."""
    outcomes = (generator.reports[kind].outcome for generator in generators)
    return total_of(outcome for outcome in outcomes if outcome is not None)


async def sleep_until(time_ns: int) -> None:
    """Sleep until a monotonic time."""
    await trio.sleep(max(0, time_ns - time.monotonic_ns()) / NS)


def machine() -> str:
    """Say what this machine is, in one line."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core(s), {platform.system()} {platform.release()}, Python {platform.python_version()}"
