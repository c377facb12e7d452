from __future__ import annotations

import sys

import pytest
import trio

from bench.generator import Report, first_of, write
from bench.run import ROOT, read_report
from tests.bench.running import plan_for
from tests.clients.fake_server import open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_first_exception_of_nested_groups_is_found() -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [OSError("inner")]), ValueError("outer")])
    assert str(first_of(group)) == "inner"


def test_reports_are_lines_that_are_read_back() -> None:
    report = Report("progress", 5, 3, 2)
    assert b"\n" not in write(report)
    assert read_report(write(report)) == report


async def test_generator_ends_when_nobody_wants_its_result() -> None:
    async with open_fake_server() as server:
        plan = plan_for(server.room_url, workload="idle", connections=2)
        with trio.fail_after(20):
            ended = await trio.run_process(
                [sys.executable, "-m", "bench.generator"],
                stdin=write(plan) + b"\n",
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=ROOT,
            )
        await server.wait_for_members(0)
    assert ended.returncode == 1
    assert ended.stderr == b"the one who wanted the result has gone\n"
    assert read_report(ended.stdout.splitlines()[-1]).kind == "opened"
