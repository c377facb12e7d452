"""`make cluster`: nsqd, etcd, two conn servers, two logic servers and a job worker, a process each.

exit code   0  stopped as asked             1  a part did not start, died, or had to be killed
            2  nsqd or etcd is missing
"""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from deploy.cluster.plan import LOOPBACK, PROGRAMS, Plan, make_plan
from deploy.cluster.processes import PartFailed, run_stages

EXIT_STOPPED: Final = 0
EXIT_FAILED: Final = 1
EXIT_MISSING: Final = 2


def port_chooser() -> Callable[[int], int]:
    """Return a function that gives the port that is wanted, or any free one, and none twice."""
    given: set[int] = set()

    def choose(wanted: int) -> int:
        for port in (wanted, *(0,) * 100):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, port))
                except (OSError, OverflowError):  # taken, or the wanted one is over 65535
                    continue
                found = int(probe.getsockname()[1])
            if found not in given:
                given.add(found)
                return found
        raise OSError(f"no free port on {LOOPBACK}")

    return choose


def greeting(plan: Plan) -> str:
    """Return where everything is, and what to try."""
    width = max(map(len, plan.addresses))
    lines = [f"  {name:<{width}}  {address}" for name, address in plan.addresses.items()]
    pages = [address.split()[0] for name, address in plan.addresses.items() if name in ("conn-1", "conn-2")]
    return "\n".join(
        (
            "",
            "The cluster is up.",
            *lines,
            f"Open {' and '.join(pages)}: two servers, one room.  Ctrl-C stops everything.",
            "",
        )
    )


async def obey_signals(
    stop: trio.Event, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    """Let the first SIGINT or SIGTERM stop the cluster in order, and the second kill it."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                scope.cancel()
            print("stopping; once more kills", flush=True)
            stop.set()


async def run(plan: Plan) -> int:
    """Run the cluster to its end, and return the exit code."""
    stop = trio.Event()
    say = partial(print, flush=True)
    is_clean = False
    async with trio.open_nursery() as nursery:
        await nursery.start(obey_signals, stop, nursery.cancel_scope)
        try:
            is_clean = await run_stages(plan.stages, say, lambda: say(greeting(plan)), stop)
        except PartFailed as exc:
            print(f"cluster: {exc}", file=sys.stderr, flush=True)
        nursery.cancel_scope.cancel()
    return EXIT_STOPPED if is_clean else EXIT_FAILED


def main() -> int:
    """Start the cluster from what is on PATH."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        print(f"cluster: not on PATH: {', '.join(missing)}", file=sys.stderr)
        return EXIT_MISSING
    with tempfile.TemporaryDirectory(prefix="roomcast-cluster-", ignore_cleanup_errors=True) as name:
        plan = make_plan(Path(name), sys.executable, secrets.token_hex(32), port_chooser())
        for path, text in plan.files.items():
            path.write_text(text)
        return trio.run(run, plan)


if __name__ == "__main__":
    sys.exit(main())
