"""`make soak`: a constant load for as long as one likes; what each process needs must stay the same.

python -m tests.integration.soak --seconds 3600

Memory, open files, threads and Trio tasks of each service are sampled all the time.  After a warm-up the
middle of an early stretch is compared with that of the last one.  Exit code 1 when something has grown, or
when the books of the load (ledger.py) are not in order.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import click
import trio

from tests.integration.cluster import Cluster, open_cluster
from tests.integration.crowd import Crowd, Talk, open_crowd
from tests.integration.programs import find_etcd
from tests.runtime.queue.nsq.daemons import best_kind

# A job worker remembers 16 messages for each that it may have on loan, 4096 at least: they are soon full.
SETTINGS = {"job": {"ROOMCAST_NSQ__MAXINFLIGHT": "256"}}
SAMPLE_S = 0.5
WARM_UP = 0.4
"""Of the whole time: until then caches fill."""
STRETCH = 0.2
ALLOWED = {"memory, KB": (0.03, 1024.0), "files": (0.0, 4.0), "threads": (0.0, 2.0), "tasks": (0.0, 8.0)}
"""What may be more at the end: a share of it, and that much besides."""

SHOWN = 10
"""Of what is missing, for whoever looks for the reason."""

Series = dict[tuple[str, str], list[float]]
"""(service, what) -> samples."""


async def run(folder: Path, *, seconds: float, talk: Talk, kind: str) -> bool:
    """Do it, print the figures, and return whether all stayed as it was."""
    async with (
        open_cluster(find_etcd(), folder, kind=kind, settings=SETTINGS) as cluster,
        open_crowd(cluster, talk) as crowd,
    ):
        series: Series = defaultdict(list)
        with trio.move_on_after(seconds):
            while True:
                await sample(cluster, series)
                await trio.sleep(SAMPLE_S)
        await crowd.hush()
        await crowd.settle()
        return judge(series) & judge_books(crowd)


async def sample(cluster: Cluster, series: Series) -> None:
    """Ask every service what it needs now."""
    for service in cluster.services:
        numbers = await service.numbers()
        found = {
            "memory, KB": numbers["process_resident_memory_bytes"] / 1024,
            "files": numbers["process_open_fds"],
            "threads": threads_of(service.pid),
            "tasks": numbers["trio_tasks"],
        }
        for what, value in found.items():
            series[service.name, what].append(value)


def threads_of(pid: int) -> float:
    """Return how many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def growth(samples: Sequence[float]) -> tuple[float, float]:
    """Return the median after the warm-up, and at the end."""
    start, length = int(len(samples) * WARM_UP), max(1, int(len(samples) * STRETCH))
    return median(samples[start : start + length]), median(samples[-length:])


def judge(series: Series) -> bool:
    """Print before and after, and return whether nothing has grown."""
    is_flat = True
    for (service, what), samples in series.items():
        before, after = growth(samples)
        share, more = ALLOWED[what]
        has_grown = after > before * (1 + share) + more
        is_flat &= not has_grown
        print(f"{service:<8} {what:<10} {before:9.0f} -> {after:9.0f}{'  GROWN' if has_grown else ''}")
    return is_flat


def judge_books(crowd: Crowd) -> bool:
    """Print the books, and return whether they are in order: nothing has gone wrong here."""
    ledger = crowd.ledger
    refused = len(ledger.said) - len(ledger.accepted)
    missing, repeated, disorder = ledger.missing(), ledger.repeated(), ledger.disorder()
    print(f"said {len(ledger.said)}, not accepted {refused}, missing {len(missing)}, ", end="")
    print(f"heard once more {repeated}, in another order {disorder}")
    for gap in missing[:SHOWN]:
        print(f"missing at {gap.member} (conn {gap.server}): {gap.said}")
    return not (refused or missing or repeated or disorder)


@click.command()
@click.option("--seconds", type=float, default=600.0, show_default=True)
@click.option("--members", type=int, default=24, show_default=True)
@click.option("--rooms", type=int, default=4, show_default=True)
@click.option("--nsqd", "kind", type=click.Choice(["fake", "real"]), default=best_kind, help="best there is")
def main(seconds: float, members: int, rooms: int, kind: str) -> None:
    """Load a cluster evenly, and see that nothing grows."""
    talk = Talk(members=members, rooms=rooms, pause_s=0.05)
    with tempfile.TemporaryDirectory(prefix="roomcast-soak-", ignore_cleanup_errors=True) as folder:
        is_well = trio.run(lambda: run(Path(folder), seconds=seconds, talk=talk, kind=kind))
    print("nothing has grown" if is_well else "NOT WELL")
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
