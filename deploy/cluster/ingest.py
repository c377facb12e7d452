"""`make ingest`: what an accepted message costs the whole cluster, and how many are accepted per second.

python -m deploy.cluster.ingest --duration 20 --server-cpu 0 --generator-cpu 1

nsqd, etcd, one conn server, one logic server and one job worker are started on one core, and the load
tester on another: 200 senders in 50 rooms, who each go on when their message has been acknowledged.  A
cluster that runs already is measured by `python -m bench ingest URL --pid PID --pid PID`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import trio
from rich.console import Console
from rich.table import Table

from bench.figures import missing_of, verdicts_of
from bench.limits import check_files, raise_file_limit
from bench.options import RateType
from bench.plan import Load, Target
from bench.procstat import Usage, usage_of
from bench.result import Result, Sample
from bench.run import Coordinator
from deploy.cluster.__main__ import port_chooser
from deploy.cluster.plan import PROGRAMS, Part, Plan, make_plan
from deploy.cluster.processes import run_stages

OURS: Final = ("conn-1", "logic-1", "job-1")
OTHERS: Final = ("nsqd", "etcd")
DRAIN_S: Final = 30.0
"""For what was accepted and waits in the queue: on one core, acceptance is ahead of delivery."""


class Shares:
    """What each part has used of the measured time.  Its `watch` is told by the load tester."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._first: dict[str, Usage] = {}
        self._last: dict[str, Usage] = {}

    def watch(self, phase: str, _: float, __: Sample) -> None:
        """Look at all parts; twice a second."""
        if phase == "measuring":
            self._last = {name: usage_of([pid]) for name, pid in self._pids.items()}
            self._first = self._first or self._last

    def cores(self) -> dict[str, float]:
        """Return the share of a core of each part."""
        return {
            name: (last.cpu_ns - self._first[name].cpu_ns) / max(1, last.at_ns - self._first[name].at_ns)
            for name, last in self._last.items()
        }


async def measure(plan: Plan, target: Target, load: Load, cpu: int | None) -> tuple[Result, Shares]:
    """Start the cluster, load it, and stop it.

    Raises:
        PartFailed: it does not get ready; maybe in a group, like all that the load tester raises.
    """
    pids: dict[str, int] = {}
    ready, stop = trio.Event(), trio.Event()

    def started(part: Part, pid: int) -> None:
        pids[part.name] = pid

    lines: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(run_stages, plan.stages, lines.append, ready.set, stop, on_start=started), name="cluster"
        )
        await ready.wait()
        shares = Shares(pids)
        watched = [pids[name] for name in OURS]
        result: Result = await Coordinator(target, load, watched, shares.watch).run(1, cpu)
        stop.set()
    return result, shares


def show(console: Console, result: Result, shares: Shares) -> None:
    """Print the figures."""
    rate, cores = result.total.count("units") / result.load.duration_s, shares.cores()
    table = Table(title=f"{result.load.connections} senders in {result.load.rooms} rooms")
    for heading in ("part", "us CPU per accepted message", "cores"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    rows = {name: cores[name] for name in (*OURS, *OTHERS)}
    rows["our processes"] = sum(cores[name] for name in OURS)
    rows["and nsqd"] = rows["our processes"] + cores["nsqd"]
    for name, share in rows.items():
        table.add_row(name, f"{1e6 * share / rate:.1f}" if rate else "", f"{share:.2f}")
    console.print(table)
    total = result.total
    console.print(
        f"accepted {rate:.0f} messages/s; missing {missing_of(result)}, twice {total.count('duplicates')}, "
        f"in another order {total.count('disordered')}"
    )
    for verdict in verdicts_of(result):
        console.print(f"! {verdict}", markup=False, soft_wrap=True)


@click.command()
@click.option("--senders", type=click.IntRange(1), default=200, show_default=True)
@click.option("--rooms", type=click.IntRange(1), default=50, show_default=True)
@click.option("--rate", type=RateType(), default="max", show_default=True, help="per second of all, or max")
@click.option("--size", type=click.IntRange(32), default=256, show_default=True, help="bytes of a message")
@click.option(
    "--important", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="share of them"
)
@click.option("--client-version", type=click.IntRange(0, 1), default=1, show_default=True)
@click.option("--duration", type=float, default=10.0, show_default=True)
@click.option("--server-cpu", type=int, default=0, show_default=True, help="-1: any")
@click.option("--generator-cpu", type=int, default=1, show_default=True, help="-1: any")
def main(**options: Any) -> None:
    """Measure what the way into the rooms costs."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise click.ClickException(f"not on PATH: {', '.join(missing)}")
    cores = os.sched_getaffinity(0)
    server, generator = options["server_cpu"], options["generator_cpu"]
    if server in cores:
        os.sched_setaffinity(0, {server})  # what is started from here stays there
    load = Load(
        workload="ingest",
        connections=options["senders"],
        rooms=options["rooms"],
        rate=options["rate"],
        size=options["size"],
        important=options["important"],
        duration_s=options["duration"],
        drain_s=DRAIN_S,
    )
    check_files(load.sockets, 1, raise_file_limit())
    secret = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="roomcast-ingest-", ignore_cleanup_errors=True) as name:
        plan = make_plan(Path(name), sys.executable, secret, port_chooser(), conns=1, logics=1)
        for path, text in plan.files.items():
            path.write_text(text)
        url = plan.addresses["conn-1"].split()[-1]
        target = Target(url=url, version=options["client_version"], secret=secret)
        cpu = generator if generator in cores else None
        result, shares = trio.run(measure, plan, target, load, cpu)
    show(Console(), result, shares)


if __name__ == "__main__":
    main()
