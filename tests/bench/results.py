"""Results as they could have come out of a run."""

from __future__ import annotations

from typing import Any

from bench.histogram import Histogram, Recorded
from bench.outcome import Total
from bench.plan import Load
from bench.procstat import Spent
from bench.result import Result, Sample, Server

MS = 1_000_000
SECOND = 1_000_000_000


def recorded(*values: int) -> Recorded:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram.recorded()


def total(busy: float = 0.3, **counts: int) -> Total:
    spans = {"latency": recorded(MS, 2 * MS, 3 * MS), "lateness": recorded(1000, 2000)}
    return Total(counts=counts, problems={}, spans=spans, busy=(busy,))


def server(cores: float = 0.5, pids: tuple[int, ...] = (42,), at_hand: int = 1) -> Server:
    return Server(
        pids=pids,
        rss_bytes=10 << 20,
        opening=Spent(SECOND, 20 * MS, 0.5, 11 << 20),
        measured=Spent(SECOND, int(cores * SECOND), 0.75, 12 << 20),
        fullest=0.6,
        cores=at_hand,
    )


def result(workload: str = "heartbeat", rate: float | None = 1000.0, **changed: Any) -> Result:
    return Result(
        **{
            "url": "ws://127.0.0.1:1/room",
            "version": 1,
            "load": Load(workload=workload, connections=100, rate=rate, duration_s=1.0),
            "processes": 1,
            "began_at": "2026-01-01T00:00:00+00:00",
            "machine": "2 core(s)",
            "opened": total(connections=100),
            "opening_s": 0.5,
            "total": total(units=1000, connections=100, unanswered=0),
            "server": server(),
            "samples": (Sample(0.5, 100, 990.0, 0.5, 11 << 20), Sample(1.0, 100, 1010.0, 0.4, 12 << 20)),
            **changed,
        }
    )
