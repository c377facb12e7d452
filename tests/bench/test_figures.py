from __future__ import annotations

from dataclasses import replace

import pytest

from bench.figures import figures_of, missing_of, verdicts_of
from bench.plan import Load
from tests.bench.results import MS, recorded, result, server, total


def test_cpu_and_memory_of_the_server_are_per_unit_and_per_client() -> None:
    figures = {figure.key: figure.value for figure in figures_of(result())}
    assert figures["rate"] == 1000
    assert figures["cpu_us"] == 500
    assert figures["open_cpu_us"] == 200
    assert figures["open_rate"] == 200
    assert figures["rss_kb"] == pytest.approx(10.24)
    assert figures["system_share"] == 75
    assert figures["latency_p50_ms"] == pytest.approx(2, rel=0.01)
    assert figures["latency_max_ms"] == 3


def test_spread_of_the_clients_is_shown_where_there_are_several_processes() -> None:
    several = {figure.key: figure.value for figure in figures_of(result(server=server(pids=(41, 42, 43))))}
    assert several["fullest"] == 60
    assert "fullest" not in {figure.key for figure in figures_of(result())}


def test_nothing_is_said_about_a_server_that_is_not_watched() -> None:
    keys = {figure.key for figure in figures_of(result(server=None))}
    assert not keys & {"cpu_us", "open_cpu_us", "rss_kb", "rss_mb", "cores"}


def test_quiet_generator_raises_no_doubt() -> None:
    assert verdicts_of(result()) == ()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"rate": None, "total": total(0.97, units=1)}, "The generator was the limit (97% busy)"),
        ({"rate": None, "total": total(0.97, units=1), "server": None}, "may be the limit"),
        ({"total": total(0.97, units=1000)}, "latencies are partly its own"),
        ({"total": replace(total(units=1000), waited=(0.05, 0.25))}, "waited for a core for 25% of its time"),
        ({"total": total(units=900)}, "Only 90% of the wanted rate was reached."),
        ({"total": total(units=900, skipped=100)}, "100 heartbeats were not sent"),
        ({"total": total(units=1000, held_up=7)}, "7 connects began late"),
        ({"opened": total(connections=90)}, "10 of 100 clients could not sign in."),
        ({"total": total(units=1000, unanswered=5)}, "5 heartbeats were never answered."),
        ({"total": replace(total(units=1000), problems={"ended: ECONNRESET": 3})}, "3 x ended: ECONNRESET"),
        (
            {"total": replace(total(units=1000), spans={"lateness": recorded(*[20 * MS] * 9)})},
            "The generator was late",
        ),
    ],
)
def test_what_makes_figures_doubtful_is_said(changed: dict[str, object], expected: str) -> None:
    assert expected in "\n".join(verdicts_of(result(**changed)))  # type: ignore[arg-type]


def test_server_that_ended_is_said_beside_what_was_seen_of_it() -> None:
    died = result(server=replace(server(), gone="no process 42"))
    assert "no process 42" in verdicts_of(died)[0]
    assert {f.key: f.value for f in figures_of(died)}["cpu_us"] == 500


def test_server_at_its_limit_is_not_the_generators_fault() -> None:
    for pids in ((42,), (41, 42, 43, 44)):  # on one core, several processes are at their limit together
        busy = server(cores=0.99, pids=pids, at_hand=1)
        assert verdicts_of(result(rate=None, total=total(0.97, units=1000), server=busy)) == ()
    idle = server(cores=0.99, pids=(41, 42), at_hand=2)
    (verdict,) = verdicts_of(result(rate=None, total=total(0.97, units=1000), server=idle))
    assert "not the server (99% of 2 core(s))" in verdict


def test_missing_deliveries_are_of_what_was_not_refused() -> None:
    load = Load(workload="fanout", connections=100, rooms=10, rate=1.0)
    heard = total(units=900, messages=100, refused=10, expected=900, unique=895, late=2)
    lossy = result(load=load, total=heard)
    assert missing_of(lossy) == 5
    assert "Deliveries: 2 late, 5 missing (of 895)." in verdicts_of(lossy)
    assert {f.key: f.value for f in figures_of(lossy)}["lost"] == 5


@pytest.mark.parametrize(
    ("changed", "accepted", "is_missed"),
    [
        ({}, 990, False),
        ({}, 900, True),
        ({"arrivals": "poisson"}, 920, False),  # 1000 arrivals are 905 to 1095
        ({"arrivals": "poisson"}, 850, True),
        ({"rate": 2.0}, 1, False),
    ],
)
def test_rate_of_fanout_is_that_of_its_messages(
    changed: dict[str, object], accepted: int, is_missed: bool
) -> None:
    load = Load(**{"workload": "fanout", "rate": 1000.0, "duration_s": 1.0, **changed})  # type: ignore[arg-type]
    shown = result(load=load, total=total(units=10**6, messages=1, accepted=accepted))
    assert ("of the wanted rate" in "\n".join(verdicts_of(shown))) == is_missed


def test_only_messages_without_any_acknowledgement_hint_at_an_old_server() -> None:
    silent = total(units=0, messages=5, unanswered=5)
    hint = "--client-version 0"
    for workload, version, has_hint in (("ingest", 1, True), ("ingest", 0, False), ("push", 1, False)):
        via = "post" if workload == "push" else "websocket"
        load = Load(workload=workload, via=via)  # type: ignore[arg-type]
        assert (hint in "\n".join(verdicts_of(result(load=load, version=version, total=silent)))) == has_hint
    frozen = result(total=total(units=0, unanswered=5))  # heartbeats are answered to all generations
    assert hint not in "\n".join(verdicts_of(frozen))


def test_what_is_merged_comes_back_later_than_it_was_due() -> None:
    load = Load(workload="ingest", rate=1000.0, duration_s=10.0)
    for units, is_missed in ((9400, False), (8000, True)):
        shown = result(load=load, version=0, total=total(units=units))
        assert ("of the wanted rate" in "\n".join(verdicts_of(shown))) == is_missed


def test_members_that_stopped_reading_and_were_sent_away_are_shown() -> None:
    load = Load(workload="fanout", connections=100, rate=1.0, stalled=3)
    shown = figures_of(result(load=load, total=total(units=900, messages=100, stalled=3, evicted=2)))
    assert {f.key: f.value for f in shown if f.key in ("stalled", "evicted")} == {"stalled": 3, "evicted": 2}


def test_nothing_is_missing_to_clients_that_never_came() -> None:
    heard = total(units=900, messages=100, expected=1000, unique=900)
    load = Load(workload="fanout", connections=100, rooms=10, rate=1.0)
    assert missing_of(result(load=load, total=heard, opened=total(connections=90))) == 0


def test_storm_that_is_not_over_in_time_is_said() -> None:
    cut = result("storm", total=total(units=100, storm_ns=500 * MS, unsettled=7))
    assert "The storm was not over at the end: 7 were still to come in" in verdicts_of(cut)[0]


def test_what_opening_took_is_not_shared_by_a_few() -> None:
    few = result(opened=total(connections=3))
    for shown in (few, result("storm", total=total(units=100, storm_ns=MS))):
        assert not {"open_cpu_us", "rss_kb"} & {figure.key for figure in figures_of(shown)}


def test_storm_is_judged_by_its_own_time() -> None:
    spans = {"quiet": recorded(MS), "stormy": recorded(2 * MS)}
    stormy = replace(total(units=80, connections=90, storm_ns=500 * MS), spans=spans)
    storm = result("storm", total=stormy)
    figures = {figure.key: figure.value for figure in figures_of(storm)}
    assert (figures["storm_s"], figures["rate"]) == (0.5, 160)
    assert figures["storm_ratio"] == pytest.approx(2, rel=0.01)
    assert "20 of 100 clients could not sign in." in verdicts_of(storm)
