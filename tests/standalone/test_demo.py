"""`make demo`: a transcript that a newcomer can believe, and an exit code that a machine can."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from schema.message import Level
from standalone.demo import Heard, Transcript, fetch_token, post_message, summary
from tests.http import http_client
from tests.standalone.running import running

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(
    r" *(?P<at>[0-9.]+) s {6}(?P<listener>\w+) +in (?P<room>\w+) +(?P<mark>!| ) (?P<sender>\w+): "
)


def test_demo_prints_who_received_what_and_when_and_ends_well() -> None:
    command = [sys.executable, "-W", "error", "-m", "standalone.demo"]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    transcript, _, received = outcome.stdout.partition("received, in this order:\n")
    lobby = 'hello, one, two, three, fire drill at noon, "closing in 5 minutes"'
    assert received.splitlines() == [
        f"  ann: {lobby}",
        f"  bob: {lobby}",
        '  cat: anybody here?, "closing in 5 minutes"',
    ]
    heard = [match for line in transcript.splitlines() if (match := LINE.match(line))]
    assert len(heard) == 14
    assert {(match["listener"], match["room"]) for match in heard} == {
        ("ann", "lobby"),
        ("bob", "lobby"),
        ("cat", "cellar"),
    }
    times = [float(match["at"]) for match in heard]
    assert times == sorted(times)
    assert [match["sender"] for match in heard if match["mark"] == "!"] == ["bob"] * 2 + ["shop"] * 3


def test_summary_has_a_line_for_each_listener() -> None:
    heard = [
        Heard(0.1, "ann", "lobby", "bob", Level.NORMAL, "one"),
        Heard(0.2, "ann", "lobby", "bob", Level.IMPORTANT, "two"),
    ]
    assert summary(heard).splitlines()[1:] == ["  ann: one, two", "  bob: ", "  cat: "]


async def test_what_is_never_heard_is_not_waited_for_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(trio.TooSlowError), trio.fail_after(30):
        await Transcript().wait_for("ann", "hello")


async def test_refused_post_ends_the_demo() -> None:
    async with running() as system, http_client(base_url=system.where.http_url) as backend:
        assert (await fetch_token(backend, "ann")).count(".") == 2
        with pytest.raises(SystemExit, match="1001"):
            await post_message(backend, "no token", "lobby", "hello")
