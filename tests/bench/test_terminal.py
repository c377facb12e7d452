from __future__ import annotations

from io import StringIO

from rich.console import Console

from bench.compare import CASES, Comparison, Measurement
from bench.result import Sample
from bench.terminal import PLAIN_WIDTH, Terminal, show_comparison, show_result, wide
from tests.bench.results import result, total


def shown(show: object, what: object) -> str:
    out = StringIO()
    show(Console(file=out, width=PLAIN_WIDTH), what)  # type: ignore[operator]
    return out.getvalue()


def test_figures_and_doubts_of_a_run_are_printed() -> None:
    printed = shown(show_result, result(total=total(units=10)))
    assert "server CPU per heartbeat" in printed
    assert "! Only 1% of the wanted rate was reached." in printed


def test_addresses_and_names_are_printed_as_they_are() -> None:
    assert "ws://[fd00::1]:8081/room" in shown(show_result, result(url="ws://[fd00::1]:8081/room"))
    case = CASES["heartbeat-100"]
    comparison = Comparison(
        began_at="",
        machine="",
        baseline="[red]x",
        rounds=1,
        cases=(case,),
        measurements=(Measurement(case.name, "[red]x", 0, {"cpu_us": 5.0}),),
    )
    assert shown(show_comparison, comparison).count("[red]x") == 2
    out = StringIO()
    with Terminal(Console(file=out, width=PLAIN_WIDTH, force_terminal=True)) as terminal:
        terminal.watch("idle ws://[fd00::1]:8081/room")("opening", 0.5, Sample(0, 1, 0, 0, 0))
    assert "ws://[fd00::1]:8081/room" in out.getvalue()


def test_comparison_names_a_case_once_and_every_failure() -> None:
    case = CASES["heartbeat-100"]
    measurements = (
        Measurement(case.name, "floor", 0, {"cpu_us": 5.0}),
        Measurement(case.name, "ours", 0, {"cpu_us": 7.5}),
        Measurement(case.name, "x", 0, {}, failure="[not] there"),
    )
    printed = shown(
        show_comparison,
        Comparison(
            began_at="", machine="", baseline="floor", rounds=1, cases=(case,), measurements=measurements
        ),
    )
    table, _, doubts = printed.partition("! ")
    assert table.count("heartbeat-100") == 1
    assert "1.50" in table
    assert doubts.strip() == "heartbeat-100, x, round 1: [not] there"


def test_progress_says_what_runs_and_is_gone_afterwards() -> None:
    out = StringIO()
    console = Console(file=out, width=PLAIN_WIDTH, force_terminal=True)
    with Terminal(console) as terminal:
        terminal.watch("heartbeat, round 1")("measuring", 0.5, Sample(1.0, 100, 990.0, 0.0, 0))
    assert "heartbeat, round 1" in out.getvalue()
    assert "100 signed in, 990/s" in out.getvalue()


def test_table_in_a_file_is_as_wide_as_it_needs() -> None:
    console = wide()
    assert console.is_terminal or console.width == PLAIN_WIDTH
