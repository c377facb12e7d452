from __future__ import annotations

import json
import sys

import pytest
import trio

from deploy.cluster import processes
from deploy.cluster.plan import Part
from deploy.cluster.processes import LONGEST_LINE_BYTES, PartFailed, run_stages
from tests.ports import free_port

pytestmark = pytest.mark.usefixtures("no_leaks")

PART = """
import http.server, json, signal, sys, time
port, status, manner = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"ready": status == 200, "reasons": {"queue": "not yet"}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def end(*_):
    print("ending", flush=True)
    raise SystemExit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if manner == "deaf" else end)
print("x" * int(manner) if manner.isdigit() else "starting", flush=True)
if manner == "fails":
    sys.exit(3)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def part(name: str, manner: str = "", status: int = 200, *, has_readyz: bool = True) -> Part:
    port = free_port()
    command = (sys.executable, "-c", PART, str(port), str(status), manner)
    return Part(name, command, f"127.0.0.1:{port}", has_readyz=has_readyz)


class Heard:
    """What the cluster has said, with ways to wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._waiting: dict[str, trio.Event] = {}

    def say(self, line: str) -> None:
        self.lines.append(line)
        for text, event in self._waiting.items():
            if text in line:
                event.set()

    def event(self, text: str) -> trio.Event:
        """Return what is set once a line with `text` is said."""
        return self._waiting.setdefault(text, trio.Event())


async def test_parts_start_and_stop_in_order_and_their_lines_carry_their_names() -> None:
    heard, stop = Heard(), trio.Event()
    stages = [[part("queue", has_readyz=False)], [part("logic-1")], [part("job-1")]]
    with trio.fail_after(15):
        assert await run_stages(stages, heard.say, stop.set, stop)
    assert heard.lines == [
        "queue   | starting",
        "logic-1 | starting",
        "job-1   | starting",
        "job-1   | ending",
        "logic-1 | ending",
        "queue   | ending",
    ]


async def test_part_that_dies_is_reported_and_the_others_go_on() -> None:
    heard, stop = Heard(), trio.Event()
    dead = heard.event("by itself")
    pid = heard.event("pid")
    victim = part("conn-1")
    victim = Part(
        victim.name,
        (*victim.command[:2], f"import os; print('pid', os.getpid(), flush=True){PART}", *victim.command[3:]),
        victim.address,
        has_readyz=True,
    )
    outcome: list[bool] = []

    async def run() -> None:
        outcome.append(await run_stages([[victim, part("conn-2")]], heard.say, ready.set, stop))

    ready = trio.Event()
    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await ready.wait()
            await pid.wait()
            (line,) = (line for line in heard.lines if "pid" in line)
            await trio.run_process(["kill", "-KILL", line.split()[-1]])
            await dead.wait()
            assert "conn-1 has ended by itself: SIGKILL" in heard.lines
            assert "conn-2  | ending" not in heard.lines
            stop.set()
    assert outcome == [False]
    assert "conn-2  | ending" in heard.lines


async def test_part_that_ends_before_it_is_ready_ends_the_cluster() -> None:
    heard, stop = Heard(), trio.Event()
    with (
        trio.fail_after(15),
        pytest.raises(PartFailed, match=r"^conn-1 has ended before it was ready: exit code 3$"),
    ):
        await run_stages([[part("logic-1")], [part("conn-1", "fails")]], heard.say, stop.set, stop)
    assert heard.lines[-1] == "logic-1 | ending"


async def test_part_that_is_never_ready_ends_the_cluster_with_its_reasons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "START_WITHIN_S", 1.0)
    stop = trio.Event()
    with trio.fail_after(15), pytest.raises(PartFailed) as caught:
        await run_stages([[part("job-1", status=503)]], Heard().say, stop.set, stop)
    said, _, answer = str(caught.value).partition(": ")
    assert said == "job-1 is not ready after 1 s"
    assert json.loads(answer)["reasons"] == {"queue": "not yet"}


async def test_part_that_does_not_stop_is_killed_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_WITHIN_S", 0.3)
    heard, stop = Heard(), trio.Event()
    with trio.fail_after(15):
        assert not await run_stages([[part("logic-1")], [part("conn-1", "deaf")]], heard.say, stop.set, stop)
    assert heard.lines[2:] == [
        "conn-1 does not stop within 0.3 s and is killed",
        "conn-1 has ended: SIGKILL",
        "logic-1 | ending",
    ]


async def test_stop_while_starting_does_not_wait_for_what_is_not_ready() -> None:
    heard, stop = Heard(), trio.Event()
    heard.event("starting")
    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            stages = [[part("logic-1", status=503)], [part("conn-1")]]
            nursery.start_soon(run_stages, stages, heard.say, pytest.fail, stop)
            await heard.event("starting").wait()
            stop.set()
    assert heard.lines == ["logic-1 | starting", "logic-1 | ending"]


async def test_cancelling_kills_everything() -> None:
    deaf, ready = part("conn-1", "deaf"), trio.Event()
    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_stages, [[deaf]], Heard().say, ready.set, trio.Event())
            await ready.wait()
            nursery.cancel_scope.cancel()
        host, _, port = deaf.address.partition(":")
        with pytest.raises(OSError, match=r"refused|failed"):
            await trio.open_tcp_stream(host, int(port))


async def test_endless_line_is_passed_on_in_pieces() -> None:
    heard, stop = Heard(), trio.Event()
    size = 3 * LONGEST_LINE_BYTES
    with trio.fail_after(15):
        await run_stages([[part("conn-1", str(size))]], heard.say, stop.set, stop)
    pieces = [line.partition("| ")[2] for line in heard.lines if "x" in line]
    assert len(pieces) > 1
    assert "".join(pieces) == "x" * size
