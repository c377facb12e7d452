"""Carries out loads within the test's own process: the generator's part, without its process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic_ns
from typing import Any

from bench.engine import Engine
from bench.generator import WORKLOADS
from bench.outcome import Outcome, Total, total_of
from bench.plan import Load, Plan, Target, Window
from bench.schedule import NS

TOKENS = tuple(f"token-of-{number}" for number in range(1, 6))
RUN = 7
LATE_NS = NS // 10


def plan_for(url: str, *, version: int = 1, tokens: tuple[str, ...] = TOKENS, **load: Any) -> Plan:
    shape = {"ramp_s": 0.1, "duration_s": 0.4, "drain_s": 1.0, **load}
    return Plan(target=Target(url=url, version=version, tokens=tokens), load=Load(**shape), run=RUN)


def is_sent(count: int, due: int) -> bool:
    """Say whether `count` is what a generator does of `due`: less without its core, and never more."""
    return 0.75 * due <= count <= due + 2


@asynccontextmanager
async def open_engine(url: str, **options: Any) -> AsyncIterator[Engine]:
    engine = Engine(plan_for(url, **{"workload": "idle", **options}))
    try:
        yield engine
    finally:
        engine.close()


async def carry_out_in_parts(plan: Plan, processes: int) -> Total:
    """Carry out a plan as several processes do, one after the other; return all that was seen."""
    parts = [replace(plan, process=part, processes=processes) for part in range(processes)]
    return total_of([(await carry_out_alone(part))[1] for part in parts])


async def carry_out(plan: Plan) -> tuple[Outcome, Total]:
    """Return what was seen when everybody was in, and all of it."""
    opened, outcome = await carry_out_alone(plan)
    return opened, total_of([outcome])


async def carry_out_on_time(plan: Plan) -> Total:
    """Return all that was seen; once more, twice at most, where this process had no core for a while."""
    _, total = await carry_out(plan)
    for _ in range(2):
        lateness = total.spans["lateness"]
        if lateness.counts and lateness.highest < LATE_NS:
            break
        _, total = await carry_out(plan)
    return total


async def carry_out_alone(plan: Plan) -> tuple[Outcome, Outcome]:
    """Return what this part of a load has seen when everybody was in, and all of it."""
    engine = Engine(plan)
    workload = WORKLOADS[plan.load.workload](engine)
    try:
        await workload.prepare()
        opened = engine.outcome()
        start = monotonic_ns()
        opens = start + int(plan.load.ramp_s * NS)
        await workload.run(Window(start, opens, opens + int(plan.load.duration_s * NS)))
        outcome = engine.outcome()
        await workload.finish()
    finally:
        engine.close()
    return opened, outcome
