from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bench.compare import CASES, Case, Comparison, Measurement, Terms, compare, measure, ratio
from bench.plan import Load, Target
from bench.run import Watch
from bench.servers import RECIPES, Address, Recipe, Running
from tests.bench.test_servers import needs_compiler

pytestmark = pytest.mark.usefixtures("no_leaks")
CASE = Case("small", Load(workload="heartbeat", connections=60, duration_s=0.3, ramp_s=0.1), {"cpu_us": "us"})


def terms(*, rounds: int = 2, budget_s: float = 60.0) -> Terms:
    return Terms(
        target=Target(url="", version=0),
        rounds=rounds,
        processes=1,
        server_cpu=None,
        generator_cpu=None,
        baseline="floor",
        budget_s=budget_s,
    )


def quiet(*_: object) -> None:
    return None


def compared(values: Sequence[tuple[str, float]]) -> Comparison:
    rounds: dict[str, int] = {}
    measurements = []
    for server, value in values:
        rounds[server] = rounds.get(server, -1) + 1
        measurements.append(Measurement("small", server, rounds[server], {"cpu_us": value}))
    return Comparison(
        began_at="", machine="", baseline="floor", rounds=3, cases=(CASE,), measurements=tuple(measurements)
    )


def test_ratio_is_the_median_of_those_within_a_round() -> None:
    # The machine is twice as slow in the second round: the ratio does not notice.
    comparison = compared(
        [("floor", 5.0), ("ours", 6.0), ("floor", 10.0), ("ours", 12.0), ("floor", 5.0), ("ours", 7.0)]
    )
    floor, ours = comparison.rows()
    assert [floor.value, floor.to_baseline, floor.to_ours] == pytest.approx([5.0, 1.0, 1.2])
    assert [ours.value, ours.to_baseline, ours.to_ours] == pytest.approx([7.0, 1.2, 1.0])


def test_without_the_baseline_there_are_figures_and_no_ratios() -> None:
    (row,) = compared([("picows", 5.0)]).rows()
    assert (row.value, row.to_baseline, row.to_ours) == (5.0, None, None)


def test_only_rounds_that_both_have_count() -> None:
    assert ratio({0: 4.0, 1: 9.0}, {0: 2.0, 2: 1.0}) == 2.0
    assert ratio({0: 4.0}, {1: 2.0}) is None
    assert ratio({0: 4.0}, {0: 0.0}) is None


def test_usual_cases_fit_into_ten_minutes_and_others_are_asked_for() -> None:
    usual = [name for name, case in CASES.items() if case.is_usual]
    assert usual == ["heartbeat-100", "heartbeat-5000", "heartbeat-5000-10k", "fanout-1000", "idle-10000"]
    assert {"heartbeat-18000", "storm-10000"} <= set(CASES)


async def test_servers_take_turns_round_after_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> Measurement:
        await trio.lowlevel.checkpoint()
        return Measurement("small", "x", 0, {})

    order: list[tuple[str, str, int]] = []

    def watch(case: Case, server: str, number: int) -> Watch:
        order.append((case.name, server, number))
        return quiet

    monkeypatch.setattr("bench.compare.measure", nothing)
    once = replace(CASE, name="once", rounds_at_most=1)
    pair = [Address(name, Running("ws://x", ())) for name in ("a", "b")]
    await compare(pair, [CASE, once], terms(), watch, trio.CancelScope())
    assert order == [
        *(("small", "a", 0), ("small", "b", 0), ("once", "a", 0), ("once", "b", 0)),
        *(("small", "a", 1), ("small", "b", 1)),
    ]


@needs_compiler
async def test_server_is_started_measured_and_stopped() -> None:
    with trio.fail_after(30):
        measurement = await measure(RECIPES["floor"], CASE, 0, terms(), quiet)
    assert measurement.failure == ""
    assert 0 < measurement.figures["cpu_us"] < 1000
    assert measurement.figures["open_cpu_us"] > 0


async def test_no_round_begins_that_would_end_after_the_budget(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> Measurement:
        await trio.sleep(10)
        return Measurement("small", "x", 0, {})

    monkeypatch.setattr("bench.compare.measure", nothing)
    somebody = Address("x", Running("ws://x", ()))
    comparison = await compare(
        [somebody], [CASE], terms(rounds=9, budget_s=35.0), lambda *_: quiet, trio.CancelScope()
    )
    assert comparison.rounds == 3


async def test_comparison_that_is_ended_early_has_what_was_measured(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: object, __: object, number: int, *___: object) -> Measurement:
        await trio.sleep(10)
        return Measurement("small", "x", number, {})

    monkeypatch.setattr("bench.compare.measure", nothing)
    somebody = Address("x", Running("ws://x", ()))
    scope = trio.CancelScope(deadline=trio.current_time() + 25)
    comparison = await compare([somebody], [CASE], terms(rounds=9), lambda *_: quiet, scope)
    assert [measurement.round for measurement in comparison.measurements] == [0, 1]
    assert comparison.rounds == 2


async def test_server_that_does_not_start_is_a_failure_and_not_the_end() -> None:
    broken = Recipe("broken", "", lambda *_: ("/bin/sh", "-c", "echo no way; exit 3"))
    measurement = await measure(broken, CASE, 0, terms(), quiet)
    assert (measurement.figures, measurement.failure) == ({}, "no way")


async def test_server_that_is_not_there_any_more_is_a_failure() -> None:
    gone = Address("gone", Running("ws://127.0.0.1:9/room", (4194999,)))
    measurement = await measure(gone, CASE, 0, terms(), lambda *_: None)
    assert "no process 4194999" in measurement.failure
