"""What a result means: named figures with units, and what to think of the generator.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Final

from bench.histogram import Summary, merged
from bench.outcome import Total
from bench.result import Result, Server

UNITS: Final = {
    "heartbeat": "heartbeat",
    "idle": "client",
    "fanout": "pushed frame",
    "ingest": "accepted message",
    "storm": "sign-in (and the residents' heartbeats)",
    "churn": "return",
    "push": "accepted message",
}
UNITS_SENT: Final = {
    **dict.fromkeys(("heartbeat", "storm"), "heartbeats"),
    **dict.fromkeys(("fanout", "ingest", "push"), "messages"),
    "churn": "returns",
}
SPANS: Final = {
    "latency": "answer",
    "latency_important": "IMPORTANT, due to push at each member",
    "latency_normal": "NORMAL, due to push at each member",
    "own": "due to own push",
    "ack": "due to accepted",
    "quiet": "heartbeats of residents before the storm",
    "stormy": "heartbeats of residents during the storm",
    "open": "connect, upgrade, sign-in",
    "return": "due to leave until signed in again",
    "lateness": "generator: late by",
}

BUSY: Final = 0.9
WAITED: Final = 0.1
LATE_NS: Final = 5_000_000
SHORT: Final = 0.98
SATURATED: Final = 0.9
MERGED_S: Final = 1.0
"""Held back by a server that merges: the first second brings what was due in the ramp, at a lower rate."""
MANY: Final = 50
"""From so many clients on, each one's share of the opening says something; few share what it takes anyway."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; `key` names it in comparisons and JSON."""

    key: str
    label: str
    value: float
    unit: str


def figures_of(result: Result) -> tuple[Figure, ...]:
    """Return all figures of a result, the most telling first."""
    return (
        *_of_units(result),
        *_of_server(result),
        *_of_order(result),
        *_of_spans(result),
        *_of_generators(result),
    )


def verdicts_of(result: Result) -> tuple[str, ...]:
    """Return what makes figures doubtful: a generator at its limit, failures, losses."""
    return (*_bottleneck(result), *_problems(result))


def spans_of(result: Result) -> dict[str, Summary]:
    """Return the summaries of all spans that hold something, in the order of SPANS."""
    spans = result.total.spans
    return {name: merged([spans[name]]).summary() for name in SPANS if name in spans and spans[name].counts}


def missing_of(result: Result) -> int:
    """Return how many deliveries are missing: of what was accepted, to who was in at the beginning."""
    total = result.total
    share_in = result.opened.count("connections") / result.load.connections
    return max(0, round(total.count("expected") * share_in) - total.count("unique"))


def _of_units(result: Result) -> Iterator[Figure]:
    units, load = result.total.count("units"), result.load
    unit = UNITS[load.workload]
    if load.workload == "storm":
        seconds = result.total.count("storm_ns") / 1e9
        yield Figure("storm_s", "until the last had settled", seconds, "s")
        yield Figure("rate", "sign-ins in the storm", units / seconds if seconds else 0.0, "/s")
        spans = spans_of(result)
        if "quiet" in spans and "stormy" in spans:
            ratio = spans["stormy"].p99 / max(1, spans["quiet"].p99)
            yield Figure("storm_ratio", "p99 of residents, during / before", ratio, "x")
    elif load.workload != "idle":
        yield Figure("rate", f"{unit}s", units / load.duration_s, "/s")
    opened = result.opened.count("connections")
    if opened >= MANY and result.opening_s and load.workload != "storm":
        yield Figure("open_rate", "sign-ins while opening", opened / result.opening_s, "/s")
    yield Figure("connections", "signed in", result.total.count("connections"), "")


def _of_server(result: Result) -> Iterator[Figure]:
    server, units = result.server, result.total.count("units")
    if server is None:
        return
    measured = server.measured
    if units and result.load.workload != "idle":
        cpu_us = measured.cpu_ns / units / 1e3
        yield Figure("cpu_us", f"server CPU per {UNITS[result.load.workload]}", cpu_us, "us")
    yield Figure("cores", "server, cores used", measured.cores, "")
    if len(server.pids) > 1 and server.fullest:
        yield Figure("fullest", "clients in the fullest of its processes", 100 * server.fullest, "%")
    if measured.cpu_ns:
        yield Figure("system_share", "of it in the kernel", 100 * measured.system_share, "%")
    opened = result.opened.count("connections")
    if opened >= MANY and result.load.workload != "storm":
        yield from _of_opening(server, opened)
    yield Figure("rss_mb", "server memory at the end", measured.rss_bytes / 2**20, "MB")


def _of_opening(server: Server, clients: int) -> Iterator[Figure]:
    cpu_us = server.opening.cpu_ns / clients / 1e3
    yield Figure("open_cpu_us", "server CPU per connect, upgrade, sign-in", cpu_us, "us")
    rss_kb = (server.opening.rss_bytes - server.rss_bytes) / clients / 1024
    yield Figure("rss_kb", "server memory per client", rss_kb, "KB")


def _of_order(result: Result) -> Iterator[Figure]:
    total = result.total
    if "unanswered" in total.counts:
        yield Figure("unanswered", "never answered", total.count("unanswered"), "")
    if "messages" not in total.counts:
        return
    if result.load.stalled:
        yield Figure("stalled", "members that stopped reading", total.count("stalled"), "")
        yield Figure("evicted", "of them, closed by the server", total.count("evicted"), "")
    yield Figure("lost", "deliveries missing", missing_of(result), "")
    yield Figure("duplicates", "delivered twice", total.count("duplicates"), "")
    yield Figure("late", "out of a sender's order", total.count("late"), "")
    yield Figure("disordered", "in another order than at others", total.count("disordered"), "")


def _of_spans(result: Result) -> Iterator[Figure]:
    for name, summary in spans_of(result).items():
        for key, value in (("p50", summary.p50), ("p99", summary.p99), ("p99.9", summary.p999)):
            yield Figure(f"{name}_{key}_ms", f"{SPANS[name]}, {key}", value / 1e6, "ms")
        yield Figure(f"{name}_max_ms", f"{SPANS[name]}, max", summary.highest / 1e6, "ms")


def _of_generators(result: Result) -> Iterator[Figure]:
    total = result.total
    yield Figure("busy", "busiest generator, cores used", max(total.busy, default=0.0), "")
    yield Figure("waited", "generator, waited for a core", 100 * max(total.waited, default=0.0), "%")


def _bottleneck(result: Result) -> Iterator[str]:
    busy = max(result.total.busy, default=0.0)
    load, server = result.load, result.server
    idle_server = server is not None and server.measured.cores < SATURATED * server.cores
    advice = "use more --processes (and cores for them)"
    if busy > BUSY and load.rate is None and load.workload in ("heartbeat", "fanout", "ingest", "push"):
        if server is None:
            yield f"A generator was busy for {busy:.0%} of its time and may be the limit; {advice}."
        elif idle_server:
            yield (
                f"The generator was the limit ({busy:.0%} busy), not the server "
                f"({server.measured.cores:.0%} of {server.cores} core(s)): the rate is the generator's; "
                f"{advice}."
            )
    elif busy > BUSY:
        yield f"A generator was busy for {busy:.0%} of its time: latencies are partly its own; {advice}."
    waited = max(result.total.waited, default=0.0)
    if waited > WAITED:
        yield f"A generator waited for a core for {waited:.0%} of its time: something else runs there."
    late = spans_of(result).get("lateness")
    if late is not None and late.p99 > LATE_NS:
        yield f"The generator was late: 1 % was sent {late.p99 / 1e6:.1f} ms after it was due, or more."
    skipped = result.total.count("skipped")
    if skipped:
        yield f"{skipped} {UNITS_SENT[load.workload]} were not sent: whose turn it was, was not connected."
    yield from _missed_rate(result)


def _unanswered(result: Result) -> Iterator[str]:
    total = result.total
    if not total.count("unanswered"):
        return
    yield f"{total.count('unanswered')} {UNITS_SENT[result.load.workload]} were never answered."
    are_messages = "messages" in total.counts and result.load.via == "websocket"
    if are_messages and result.version and not total.count("accepted"):
        yield "No acknowledgement has come: a server of the Go era needs --client-version 0."


def _missed_rate(result: Result) -> Iterator[str]:
    """Compare what was done with what was due, as far as chance and the ends of the measured time allow."""
    load = result.load
    if load.rate is None or load.workload == "storm":
        return
    seconds = load.duration_s
    if not result.version and load.workload in ("fanout", "ingest"):
        seconds -= MERGED_S  # done is what has come back
    due = load.rate * seconds
    done = result.total.count("accepted" if load.workload == "fanout" else "units")
    chance = 3 * sqrt(max(0.0, due)) if load.arrivals == "poisson" else float(result.processes)
    if done < SHORT * due - chance:
        yield f"Only {done / (load.rate * load.duration_s):.0%} of the wanted rate was reached."


def _problems(result: Result) -> Iterator[str]:
    wanted = result.load.connections
    total: Total = result.total
    if result.server is not None and result.server.gone:
        yield f"The server has ended during the run: {result.server.gone}; what it used counts until then."
    signed_in = (
        total.count("units") if result.load.workload == "storm" else result.opened.count("connections")
    )
    if total.count("held_up"):
        yield (
            f"{total.count('held_up')} connects began late: as many as --at-once allows were under way, "
            "so the clients did not come at --connect-rate."
        )
    if total.count("unsettled"):
        yield (
            f"The storm was not over at the end: {total.count('unsettled')} were still to come in; "
            "use a longer --duration."
        )
    if signed_in < wanted:
        yield f"{wanted - signed_in} of {wanted} clients could not sign in."
    yield from _unanswered(result)
    for reason, count in sorted(total.problems.items(), key=lambda item: -item[1])[:10]:
        yield f"{count} x {reason}"
    if "messages" in total.counts:
        faults = {name: total.count(name) for name in ("duplicates", "late", "disordered")}
        faults["missing"] = missing_of(result)
        found = [f"{count} {name}" for name, count in faults.items() if count]
        if found:
            yield f"Deliveries: {', '.join(found)} (of {total.count('unique')})."
