from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from runtime.discovery.statistics import DiscoveryStatistics
from runtime.metrics import LoopLag, Metrics, watch_loop_lag
from runtime.rpc.statistics import Counters


@dataclass(frozen=True, slots=True)
class Inner:
    waiting: int = 3


@dataclass(frozen=True, slots=True)
class Statistics:
    rooms: int = 2
    joined: int = 7
    refused: dict[str, int] = field(default_factory=lambda: {"full": 1, 'odd "reason"': 2})
    busy_s: float = 1.5
    inner: Inner = field(default_factory=Inner)
    name: str = "not a number"
    position: int | None = None


def scraped(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("roomcast")
    }


def test_fields_become_counters_gauges_and_reasons() -> None:
    metrics = Metrics()
    metrics.register("rooms", Statistics, gauges=("rooms", "inner_waiting"))
    assert scraped(metrics) == {
        ("roomcast_rooms_rooms", frozenset()): 2,
        ("roomcast_rooms_joined_total", frozenset()): 7,
        ("roomcast_rooms_refused_total", frozenset({("reason", "full")})): 1,
        ("roomcast_rooms_refused_total", frozenset({("reason", 'odd "reason"')})): 2,
        ("roomcast_rooms_busy_seconds_total", frozenset()): 1.5,
        ("roomcast_rooms_inner_waiting", frozenset()): 3,
    }


def test_keys_of_several_parts_become_labels_that_the_field_names() -> None:
    counters = Counters()
    counters.calls["/logic.Logic/Auth", "OK"] = 3
    counters.calls["/logic.Logic/Auth", "UNKNOWN"] = 1
    counters.failures["tls handshake"] = 2
    metrics = Metrics()
    metrics.register("discovery", lambda: DiscoveryStatistics(peers={"room_conn": 2}), gauges=("peers",))
    metrics.register("rpc", counters.statistics, labels={"conn": "a:1"})
    shown = scraped(metrics)
    method, conn = ("method", "/logic.Logic/Auth"), ("conn", "a:1")
    assert shown["roomcast_rpc_calls_total", frozenset({conn, method, ("status", "OK")})] == 3
    assert shown["roomcast_rpc_calls_total", frozenset({conn, method, ("status", "UNKNOWN")})] == 1
    assert shown["roomcast_discovery_peers", frozenset({("service", "room_conn")})] == 2
    assert shown["roomcast_rpc_failures_total", frozenset({conn, ("reason", "tls handshake")})] == 2


def test_key_whose_parts_nobody_has_named_spoils_its_part_alone() -> None:
    metrics = Metrics()
    metrics.register("bad", lambda: {"calls": {("/x", "OK"): 1}})
    metrics.register("good", lambda: {"sent": 1})
    assert scraped(metrics) == {
        ("roomcast_good_sent_total", frozenset()): 1,
        ("roomcast_scrape_errors_total", frozenset({("part", "bad")})): 1,
    }


def test_statistics_may_be_a_mapping_and_are_read_at_each_scrape() -> None:
    counts = {"sent": 0}
    metrics = Metrics()
    metrics.register("lane", lambda: counts)
    assert scraped(metrics) == {("roomcast_lane_sent_total", frozenset()): 0}
    counts["sent"] += 5
    assert scraped(metrics) == {("roomcast_lane_sent_total", frozenset()): 5}


def test_several_objects_of_one_part_are_told_apart_by_labels() -> None:
    metrics = Metrics()
    first = metrics.register("lane", lambda: {"sent": 1, "dropped": {"full": 1}}, labels={"server": "s1"})
    metrics.register("lane", lambda: {"sent": 2, "dropped": {"full": 2}}, labels={"server": "s2"})
    assert scraped(metrics) == {
        ("roomcast_lane_sent_total", frozenset({("server", "s1")})): 1,
        ("roomcast_lane_sent_total", frozenset({("server", "s2")})): 2,
        ("roomcast_lane_dropped_total", frozenset({("server", "s1"), ("reason", "full")})): 1,
        ("roomcast_lane_dropped_total", frozenset({("server", "s2"), ("reason", "full")})): 2,
    }
    first()
    first()
    assert ("roomcast_lane_sent_total", frozenset({("server", "s1")})) not in scraped(metrics)


def test_part_that_raises_is_counted_and_spoils_nothing() -> None:
    def broken() -> NoReturn:
        raise RuntimeError("defect")

    metrics = Metrics()
    metrics.register("bad", broken)
    metrics.register("odd", lambda: 5)
    metrics.register("good", lambda: {"sent": 1})
    assert scraped(metrics) == {
        ("roomcast_good_sent_total", frozenset()): 1,
        ("roomcast_scrape_errors_total", frozenset({("part", "bad")})): 1,
        ("roomcast_scrape_errors_total", frozenset({("part", "odd")})): 1,
    }


def test_process_shows_its_own_numbers() -> None:
    text = Metrics().render().decode()
    assert "process_open_fds" in text
    assert "python_info" in text


def test_two_registries_do_not_share_anything() -> None:
    one, two = Metrics(), Metrics()
    one.register("rooms", lambda: {"joined": 1})
    assert scraped(two) == {}


async def test_tasks_of_the_loop_are_counted() -> None:
    metrics = Metrics()

    def tasks() -> float:
        families = text_string_to_metric_families(metrics.render().decode())
        return next(family.samples[0].value for family in families if family.name == "trio_tasks")

    before = tasks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        assert tasks() == before + 1
        nursery.cancel_scope.cancel()


async def test_loop_that_is_held_up_shows_lag(autojump_clock: trio.testing.MockClock) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_loop_lag, lag)
        await trio.sleep(1.2)
        assert lag.statistics().worst_s == pytest.approx(0)
        autojump_clock.jump(2.0)  # as if the loop had been busy
        await trio.testing.wait_all_tasks_blocked()
        assert lag.statistics().last_s == pytest.approx(1.7)
        await trio.sleep(1)
        assert lag.statistics().last_s == pytest.approx(0)
        assert lag.statistics().worst_s == pytest.approx(1.7)
        await trio.sleep(61)
        assert lag.statistics().worst_s == pytest.approx(0)
        nursery.cancel_scope.cancel()
