from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trustme
from click.testing import CliRunner

from bench.__main__ import main, read_contenders
from bench.compare import Case, Comparison
from bench.plan import Load, Target
from bench.servers import RECIPES, Address, Recipe, free_port
from tests.bench.test_servers import needs_compiler

pytestmark = pytest.mark.usefixtures("no_leaks")


def invoke(*arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code, and all that it printed."""
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
    return outcome.exit_code, outcome.output


@contextmanager
def open_floor(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield address and process id of the C floor."""
    port = free_port()
    with subprocess.Popen(list(RECIPES["floor"].command(port, folder, ""))) as process:
        try:
            trio.run(wait_for, port)
            yield f"ws://127.0.0.1:{port}/room", process.pid
        finally:
            process.terminate()


async def wait_for(port: int) -> None:
    with trio.fail_after(5):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                return
            except OSError:
                await trio.sleep(0.01)


@needs_compiler
def test_load_prints_its_figures_and_writes_json_and_a_page(tmp_path: Path) -> None:
    with open_floor(tmp_path) as (url, pid):
        code, printed = invoke(
            *("heartbeat", url, "--pid", str(pid), "--connections", "10", "--rate", "200"),
            *("--duration", "0.4", "--ramp", "0.1"),
            *("--json", str(tmp_path / "run.json"), "--html", str(tmp_path / "run.html")),
        )
    assert code == 0, printed
    assert "server CPU per heartbeat" in printed
    document = json.loads((tmp_path / "run.json").read_text())
    figures = {figure["key"]: figure["value"] for figure in document["figures"]}
    assert figures["rate"] == pytest.approx(200, rel=0.1)
    assert document["result"]["load"]["connections"] == 10
    assert "<svg" in (tmp_path / "run.html").read_text()


def test_storm_that_nobody_gets_through_is_a_failure() -> None:
    code, printed = invoke(
        *("storm", "ws://127.0.0.1:9/room", "--connections", "2", "--residents", "0", "--retries", "0"),
        *("--duration", "0.3", "--ramp", "0", "--drain", "0.1"),
    )
    assert code == 1
    assert "2 of 2 clients could not sign in." in printed


@needs_compiler
def test_comparison_prints_one_table_and_writes_json_and_a_page(tmp_path: Path) -> None:
    code, printed = invoke(
        *("compare", "--servers", "floor", "--cases", "heartbeat-100", "--rounds", "1", "--duration", "0.3"),
        *("--server-cpu", "-1", "--generator-cpu", "-1", "--client-version", "0"),
        *("--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")),
    )
    assert code == 0, printed
    assert "us CPU per heartbeat" in printed
    (row,) = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert (row["server"], row["to_baseline"]) == ("floor", 1.0)
    assert "heartbeat-100" in (tmp_path / "c.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "rates"),
    [
        ((), [None, 10_000.0]),
        (("--heartbeat-rate", "50"), [50.0, 50.0]),
        (("--heartbeat-rate", "max"), [None, None]),
    ],
)
def test_cases_keep_their_rates_unless_another_is_asked_for(
    arguments: tuple[str, ...], rates: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []

    async def note(_: object, cases: Sequence[Case], *__: object) -> Comparison:
        asked.extend(case.load.rate for case in cases)
        await trio.lowlevel.checkpoint()
        return Comparison(began_at="", machine="", baseline="", rounds=0, cases=(), measurements=())

    monkeypatch.setattr("bench.__main__.run_comparison", note)
    cores = ("--server-cpu", "-1", "--generator-cpu", "-1")
    code, _ = invoke("compare", "--cases", "heartbeat-5000,heartbeat-5000-10k", *cores, *arguments)
    assert (code, asked) == (1, rates)  # 1: there are no figures


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("heartbeat", "--rate", "-1"), "neither a number over 0 nor `max`"),
        (("heartbeat", "--rate", "0"), "neither a number over 0 nor `max`"),
        (("heartbeat", "--rate", "nan"), "neither a number over 0 nor `max`"),
        (("heartbeat", "--rate", "inf"), "neither a number over 0 nor `max`"),
        (("heartbeat", "--interval", "0"), "--interval"),
        (("heartbeat", "--active", "nan"), "not a finite number"),
        (("idle", "--duration", "0"), "--duration"),
        (("idle", "--duration", "inf"), "not a finite number"),
        (("idle", "--connect-rate", "-5"), "--connect-rate"),
        (("idle", "--source-addresses", "251"), "--source-addresses"),
        (("idle", "--cpu", "99"), "'99' is none of the cores"),
        (("idle", "--json", "/nowhere/run.json"), "'/nowhere/run.json' cannot be written"),
        (("idle", "--ramp", "1"), "No such option"),
        (("storm", "--interval", "-1"), "--interval"),
        (("fanout", "--via", "post", "--important", "0.5"), "what is posted is always IMPORTANT"),
        (("compare", "--server-cpu", "99"), "'99' is none of the cores"),
        (("compare", "--baseline", "flor"), "unknown baseline 'flor'; compared are floor, ours"),
        (("compare", "--minutes", "0"), "--minutes"),
        (("churn", "--rate", "max"), "churn needs a rate"),
        (("idle", "--connections", "1000000"), "open files leaves"),
        (("push", "--senders", "1000000"), "open files leaves"),
        (("fanout", "--size", "10"), "--size"),
        (("compare", "--servers", "nobody"), "unknown server 'nobody'"),
        (("compare", "--cases", "nothing"), "unknown case 'nothing'"),
        (("compare", "--add", "x=y"), "neither an address"),
        (("push", "--token-secret", "NOT_SET_HERE"), "NOT_SET_HERE"),
        (("idle", "ws://127.0.0.1:9/room", "--connections", "3"), "none of 3 clients could sign in"),
        (("idle", "--ca-file", __file__), "no certificates in PEM"),
        (("idle", "ws://127.0.0.1:9/room", "--tk"), "http://127.0.0.1:9/tk: "),
        (("storm", "http://127.0.0.1/"), "not a ws:// or wss:// address"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: tuple[str, ...], problem: str) -> None:
    code, printed = invoke(*arguments)
    assert code in (1, 2)
    assert problem in printed


def test_full_speed_is_no_number_and_what_is_posted_is_important(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Load] = []
    monkeypatch.setattr("bench.__main__.load_and_show", lambda _, load, __: loads.append(load))
    invoke("heartbeat", "--rate", "max")
    invoke("fanout", "--via", "post")
    invoke("fanout")
    assert [(load.rate, load.important) for load in loads] == [(None, 1.0), (10.0, 1.0), (10.0, 0.1)]


def test_as_many_speak_as_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Load] = []
    monkeypatch.setattr("bench.__main__.load_and_show", lambda _, load, __: loads.append(load))
    invoke("ingest", "--senders", "201", "--rooms", "50")
    invoke("ingest", "--senders", "3", "--rooms", "50")
    assert [(load.connections, load.rooms) for load in loads] == [(201, 50), (3, 3)]


def test_authorities_are_found_wherever_the_generators_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[Target] = []
    monkeypatch.setattr("bench.__main__.load_and_show", lambda target, _, __: targets.append(target))
    monkeypatch.chdir(tmp_path)
    trustme.CA().cert_pem.write_to_path("ca.pem")
    invoke("idle", "--ca-file", "ca.pem")
    assert [target.ca_file for target in targets] == [str(tmp_path / "ca.pem")]


def test_compared_servers_that_run_already_are_asked_for_tokens_each_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.__main__.ask_for_tokens", lambda target, users: (target.url,) * users)
    added = ("a=ws://a/room", "b=ws://b/room", "c=./server {port}")
    one, other, started = read_contenders("", added, Target(url=""), 1)
    assert isinstance(one, Address)
    assert isinstance(other, Address)
    assert (one.running.tokens, other.running.tokens) == (("ws://a/room",), ("ws://b/room",))
    assert isinstance(started, Recipe)


def test_every_command_explains_itself() -> None:
    for command in ("heartbeat", "idle", "fanout", "ingest", "storm", "churn", "push", "compare"):
        code, printed = invoke(command, "--help")
        assert (code, "--client-version" in printed) == (0, True)
