"""Servers in turn, round after round (A B C A B C …): what disturbs a machine disturbs all of them.

A ratio is of two servers in the same round; what is reported is the median over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import Final

import trio

from bench.figures import figures_of, verdicts_of
from bench.plan import Load, Target
from bench.procstat import Gone
from bench.run import Coordinator, GeneratorFailed, NobodyIn, Watch, machine
from bench.servers import Contender, NotStarted, open_contender


@dataclass(frozen=True, slots=True)
class Case:
    """One load of a comparison, and the figures that it is for (key -> heading)."""

    name: str
    load: Load
    figures: Mapping[str, str]
    rounds_at_most: int = 100
    is_usual: bool = True


CASES: Final[Mapping[str, Case]] = {
    case.name: case
    for case in (
        Case(
            "heartbeat-100", Load(workload="heartbeat", connections=100), {"cpu_us": "us CPU per heartbeat"}
        ),
        Case(
            "heartbeat-5000", Load(workload="heartbeat", connections=5000), {"cpu_us": "us CPU per heartbeat"}
        ),
        Case(
            "heartbeat-5000-10k",
            Load(workload="heartbeat", connections=5000, rate=10_000.0),
            {"cpu_us": "us CPU per heartbeat"},
        ),
        Case(
            "fanout-1000",
            Load(workload="fanout", connections=1000, rate=20.0, size=256),
            {"cpu_us": "us CPU per pushed frame"},
        ),
        Case(
            "idle-10000",
            Load(workload="idle", connections=10_000, duration_s=0.5, ramp_s=0.0),
            {"rss_kb": "KB memory per client", "open_cpu_us": "us CPU per connect, upgrade, sign-in"},
            rounds_at_most=2,
        ),
        *(
            Case(
                f"workers-{rate // 1000}k",
                Load(workload="heartbeat", connections=5000, rate=float(rate)),
                {"cpu_us": "us CPU per heartbeat", "fullest": "% of the clients in the fullest process"},
                is_usual=False,
            )
            for rate in (10_000, 30_000, 50_000)
        ),
        # A fifth of them every 10 s, at two sizes: what a heartbeat costs should not depend on who is silent.
        *(
            Case(
                name,
                Load(workload="heartbeat", connections=count, active=0.2, rate=count / 50),
                {"cpu_us": "us CPU per heartbeat", "rss_kb": "KB memory per client"},
                is_usual=False,
            )
            for name, count in (("heartbeat-5000-fifth", 5000), ("heartbeat-18000", 18_000))
        ),
        Case(
            "storm-10000",
            # Who finds the backlog full tries again after 1, 2, 4 and 8 s, as TCP does.
            Load(
                workload="storm",
                connections=10_000,
                residents=100,
                interval_s=0.1,
                duration_s=20.0,
                drain_s=10.0,
            ),
            {"storm_ratio": "p99 of residents, during / before", "storm_s": "s until all are in"},
            is_usual=False,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One server under one load in one round; `failure` instead of figures when it did not work."""

    case: str
    server: str
    round: int
    figures: Mapping[str, float]
    verdicts: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What a comparison has shown of one server and one figure.

    Attributes:
        value: the median.
        to_baseline: the median of its ratios to the baseline, None where that is not there.
        to_ours: the median of our server's ratios to it.
    """

    case: str
    key: str
    heading: str
    server: str
    rounds: int
    value: float
    to_baseline: float | None
    to_ours: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All of a comparison."""

    began_at: str
    machine: str
    baseline: str
    rounds: int
    cases: tuple[Case, ...]
    measurements: tuple[Measurement, ...]

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the table, by case, figure and server."""
        for case in self.cases:
            for key, heading in case.figures.items():
                values = values_of(self.measurements, case.name, key)
                for server, by_round in values.items():
                    yield Row(
                        case.name,
                        key,
                        heading,
                        server,
                        len(by_round),
                        median(by_round.values()),
                        ratio(by_round, values.get(self.baseline)),
                        ratio(values.get("ours"), by_round),
                    )


def values_of(measurements: Sequence[Measurement], case: str, key: str) -> dict[str, dict[int, float]]:
    """Return server -> round -> figure."""
    values: dict[str, dict[int, float]] = {}
    for measurement in measurements:
        if measurement.case == case and key in measurement.figures:
            values.setdefault(measurement.server, {})[measurement.round] = measurement.figures[key]
    return values


def ratio(of: Mapping[int, float] | None, to: Mapping[int, float] | None) -> float | None:
    """Return the median of the ratios within the rounds that both have, None if there is none."""
    if of is None or to is None:
        return None
    ratios = [of[number] / to[number] for number in of if to.get(number)]
    return median(ratios) if ratios else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a comparison is run.

    Attributes:
        target: all but what a server says of itself: its URL, and where tokens for it come from.
        server_cpu, generator_cpu: the cores to stay on, None for any.
        budget_s: no round begins that would end later, if it took as long as the longest so far.
    """

    target: Target
    rounds: int
    processes: int
    server_cpu: int | None
    generator_cpu: int | None
    baseline: str
    budget_s: float


async def compare(
    contenders: Sequence[Contender],
    cases: Sequence[Case],
    terms: Terms,
    watch: Callable[[Case, str, int], Watch],
    scope: trio.CancelScope,
) -> Comparison:
    """Run every case with every server, round after round; a server that fails does not end it.

    Cancelling `scope` ends it early, with what has been measured until then.
    """
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    began = trio.current_time()
    measurements = []
    done, longest_s = 0, 0.0
    with scope:
        while done < terms.rounds and trio.current_time() - began + longest_s <= terms.budget_s:
            round_began = trio.current_time()
            for case in cases:
                if done < case.rounds_at_most:
                    for contender in contenders:
                        tell = watch(case, contender.name, done)
                        measurements.append(await measure(contender, case, done, terms, tell))
            done += 1
            longest_s = max(longest_s, trio.current_time() - round_began)
    return Comparison(
        began_at=began_at,
        machine=machine(),
        baseline=terms.baseline,
        rounds=done,
        cases=tuple(cases),
        measurements=tuple(measurements),
    )


async def measure(contender: Contender, case: Case, number: int, terms: Terms, watch: Watch) -> Measurement:
    """Run one case with one server."""
    try:
        async with open_contender(contender, terms.server_cpu) as running:
            target = replace(terms.target, url=running.url, secret=running.secret, tokens=running.tokens)
            coordinator = Coordinator(target, case.load, running.pids, watch)
            result = await coordinator.run(terms.processes, terms.generator_cpu)
    except (NotStarted, GeneratorFailed, NobodyIn, Gone) as exc:
        return Measurement(case.name, contender.name, number, {}, failure=str(exc))
    figures = {figure.key: figure.value for figure in figures_of(result)}
    return Measurement(case.name, contender.name, number, figures, verdicts_of(result))
