"""One generator process: `python -m bench.generator`, started by bench/run.py.

stdin    one line of JSON, the Plan; later one line of JSON, the Window
stdout   lines of JSON, one Report each: `opened` when everybody is in, `progress` twice a second, then `done`
exit     1 with a line on stderr when the plan cannot be carried out
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic_ns
from typing import Final, Literal

import trio
from msgspec.json import Decoder, Encoder

from bench.engine import Engine
from bench.limits import TooMany, check_files, raise_file_limit
from bench.outcome import Outcome
from bench.plan import Plan, Window
from bench.workloads import Workload
from bench.workloads.churn import Churn
from bench.workloads.heartbeat import Heartbeat
from bench.workloads.idle import Idle
from bench.workloads.storm import Storm
from bench.workloads.talk import Fanout, Ingest, Push

PROGRESS_S: Final = 0.5
WORKLOADS: Final[Mapping[str, Callable[[Engine], Workload]]] = {
    "heartbeat": Heartbeat,
    "idle": Idle,
    "fanout": Fanout,
    "ingest": Ingest,
    "storm": Storm,
    "churn": Churn,
    "push": Push,
}

read_plan = Decoder(Plan).decode
read_window = Decoder(Window).decode
write = Encoder().encode


@dataclass(frozen=True, slots=True)
class Report:
    """One line from a generator to who started it.

    Attributes:
        at_ns: monotonic.
        signed_in: users that are signed in.
        units: done so far.
        outcome: with `opened` and `done`.
    """

    kind: Literal["opened", "progress", "done"]
    at_ns: int
    signed_in: int
    units: int
    outcome: Outcome | None = None


class Lines:
    """Lines of JSON on this process's stdin, and to its stdout."""

    def __init__(self) -> None:
        self._input = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
        self._output = trio.lowlevel.FdStream(os.dup(sys.stdout.fileno()))
        self._buffer = b""
        self._turn = trio.Lock()

    async def receive(self) -> bytes:
        """Return the next line.

        Raises:
            EOFError: there is none any more: nobody wants the result.
        """
        while b"\n" not in self._buffer:
            data = await self._input.receive_some(65536)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def send(self, report: Report) -> None:
        """Write one report."""
        async with self._turn:
            await self._output.send_all(write(report) + b"\n")


async def generate() -> None:
    """Carry out the plan that stdin holds.  Cancelling closes all connections."""
    lines = Lines()
    plan = read_plan(await lines.receive())
    if plan.cpu is not None:
        os.sched_setaffinity(0, {plan.cpu})
    load = plan.load
    check_files(load.sockets, plan.processes, raise_file_limit())
    engine = Engine(plan)
    workload = WORKLOADS[load.workload](engine)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_progress, lines, engine, workload)
            await workload.prepare()
            await lines.send(report_of("opened", engine, workload, engine.outcome()))
            await workload.run(read_window(await lines.receive()))
            outcome = engine.outcome()  # before the goodbyes
            await workload.finish()
            await lines.send(report_of("done", engine, workload, outcome))
            nursery.cancel_scope.cancel()
    finally:
        engine.close()


async def tell_progress(lines: Lines, engine: Engine, workload: Workload) -> None:
    """Report twice a second, until cancelled."""
    while True:
        await trio.sleep(PROGRESS_S)
        await lines.send(report_of("progress", engine, workload))


def report_of(
    kind: Literal["opened", "progress", "done"],
    engine: Engine,
    workload: Workload,
    outcome: Outcome | None = None,
) -> Report:
    """Return where the load stands."""
    return Report(kind, monotonic_ns(), engine.signed_in, workload.progress(), outcome)


def main() -> None:
    """Run one generator; what it cannot do is said in one line."""
    problem = ""
    try:
        trio.run(generate)
    except* (TooMany, OSError, ValueError) as failed:
        problem = str(first_of(failed))
    except* (EOFError, trio.BrokenResourceError):
        problem = "the one who wanted the result has gone"
    if problem:
        sys.exit(problem)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first single exception of a group."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


if __name__ == "__main__":
    main()
