"""`python -m deploy.cluster.ingest` as a person starts it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from subprocess import STDOUT

import pytest
import trio

from bench.result import Sample
from deploy.cluster.ingest import Shares
from tests.deploy.cluster.test_main import NSQD, ROOT, etcd

__all__ = ["etcd"]

pytestmark = pytest.mark.usefixtures("no_leaks")

MOMENT = Sample(at_s=0.0, signed_in=0, rate=0.0, cores=0.0, rss_bytes=0)


def test_shares_are_of_the_measured_time_alone() -> None:
    shares = Shares({"us": os.getpid()})
    shares.watch("opening", 1.0, MOMENT)
    assert shares.cores() == {}
    shares.watch("measuring", 0.0, MOMENT)
    assert shares.cores() == {"us": 0.0}
    assert sum(range(1_000_000))
    shares.watch("measuring", 1.0, MOMENT)
    assert 0 < shares.cores()["us"] < 2


@pytest.mark.usefixtures("etcd")
async def test_cost_of_a_message_is_printed_for_every_part_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "nsqd").write_text(NSQD)
    (tmp_path / "nsqd").chmod(0o755)
    options = ("--senders", "10", "--rooms", "2", "--duration", "1")
    with trio.fail_after(90):
        done = await trio.run_process(
            [sys.executable, "-m", "deploy.cluster.ingest", *options],
            capture_stdout=True,
            stderr=STDOUT,
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
                "TMPDIR": str(tmp_path),
                "COLUMNS": "100",
            },
            check=False,
        )
    shown = done.stdout.decode()
    assert done.returncode == 0, shown
    costs = dict(re.findall(r"^\W+(\w[\w -]*\w) +\W +([0-9.]+) ", shown, re.MULTILINE))
    assert costs.keys() == {"conn-1", "logic-1", "job-1", "nsqd", "etcd", "our processes", "and nsqd"}, shown
    ours = sum(float(costs[name]) for name in ("conn-1", "logic-1", "job-1"))
    assert float(costs["our processes"]) == pytest.approx(ours, abs=0.2)
    assert "missing 0, twice 0, in another order 0" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"nsqd"}  # noqa: ASYNC240  nobody waits for us
