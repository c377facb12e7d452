"""`make chaos`: faults in random order under constant load, and the books at the end.

python -m tests.integration.chaos --seconds 40 --seed 7 --nsqd fake

A seed gives the same faults in the same order; when they end depends on the machine.  Exit code 1 when an
IMPORTANT message that was accepted is missing at a member that was in from before it was said until the
end, or when two members of a room have heard another order (ledger.py says what counts).

A job worker that dies has not told nsqd what it had delivered: that comes again, and is counted.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import trio

from schema.message import Level
from tests.integration.cluster import open_cluster
from tests.integration.crowd import Crowd, Talk, open_crowd
from tests.integration.faults import FAULTS
from tests.integration.programs import find_etcd
from tests.runtime.queue.nsq.daemons import best_kind

MSG_TIMEOUT_S = 5
SETTINGS = {"job": {"ROOMCAST_NSQ__MSGTIMEOUT": f"{MSG_TIMEOUT_S}s"}}
SETTLED_WITHIN_S = 30.0
LONGEST_REST_S = 1.0


async def run(folder: Path, *, seconds: float, seed: int, talk: Talk, kind: str) -> bool:
    """Do it, print what happens, and return whether all promises were kept."""
    chance = random.Random(seed)
    print(f"seed {seed}, {kind} nsqd, {talk.members} members in {talk.rooms} rooms", flush=True)
    async with (
        open_cluster(find_etcd(), folder, kind=kind, settings=SETTINGS) as cluster,
        open_crowd(cluster, talk) as crowd,
    ):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await trio.sleep(chance.uniform(0, LONGEST_REST_S))
            name = chance.choice(list(FAULTS))
            began = crowd.now
            await FAULTS[name](cluster, chance.getrandbits(16))
            over = crowd.now
            await crowd.wait_in()
            resumed_s = await crowd.wait_resumed()
            print(
                f"{over:7.1f} s  {name:<16} {over - began:5.1f} s, news after {resumed_s:.1f} s", flush=True
            )
        await crowd.hush()
        await crowd.settle(SETTLED_WITHIN_S)
        return judge(crowd)


def judge(crowd: Crowd) -> bool:
    """Print the books, and return whether they are in order."""
    ledger = crowd.ledger
    missing = ledger.missing()
    important = [each for each in missing if each.said.level is Level.IMPORTANT]
    disorder = ledger.disorder()
    for each in missing[:20]:
        print(f"missing: {each}")
    rows = {
        "said": len(ledger.said),
        "accepted": len(ledger.accepted),
        "of them IMPORTANT": sum(said.level is Level.IMPORTANT for said in ledger.accepted),
        "sessions": len(ledger.sessions),
        "heard": sum(len(session.heard) for session in ledger.sessions),
        "heard once more": ledger.repeated(),
        "given again by the queue": len(ledger.requeued()),
        "missing IMPORTANT": len(important),
        "missing NORMAL": len(missing) - len(important),
        "in another order": disorder,
    }
    for name, count in rows.items():
        print(f"{name:<26} {count}")
    for outcome, count in Counter(said.outcome for said in ledger.said).most_common():
        print(f"  {outcome:<24} {count}")
    return not important and not disorder


@click.command()
@click.option("--seconds", type=float, default=120.0, show_default=True)
@click.option("--seed", type=int, help="of an earlier run, to have its faults again")
@click.option("--members", type=int, default=24, show_default=True)
@click.option("--rooms", type=int, default=4, show_default=True)
@click.option("--nsqd", "kind", type=click.Choice(["fake", "real"]), default=best_kind, help="best there is")
def main(seconds: float, seed: int | None, members: int, rooms: int, kind: str) -> None:
    """Hurt a cluster, and see what its members notice."""
    seed = random.randrange(10_000) if seed is None else seed
    talk = Talk(members=members, rooms=rooms, pause_s=0.05)
    with tempfile.TemporaryDirectory(prefix="roomcast-chaos-", ignore_cleanup_errors=True) as folder:
        is_kept = trio.run(lambda: run(Path(folder), seconds=seconds, seed=seed, talk=talk, kind=kind))
    print("promises kept" if is_kept else f"BROKEN PROMISE: --seed {seed} gives the same faults")
    sys.exit(not is_kept)


if __name__ == "__main__":
    main()
