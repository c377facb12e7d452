"""`python -m bench`: a load tester for conn servers, ours or any that speaks the same protocol."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import trio
from msgspec.json import encode, format as indent
from rich.console import Console

from bench.compare import CASES, Case, Comparison, Terms, compare as run_comparison
from bench.figures import figures_of, verdicts_of
from bench.interrupts import interruptible
from bench.limits import TooMany, check_files, raise_file_limit
from bench.options import (
    POSITIVE,
    CoreType,
    Finite,
    RateType,
    Way,
    ask_for_tokens,
    connections_option,
    file_options,
    important_option,
    pace_options,
    rate_option,
    read_load,
    read_target,
    read_users,
    read_way,
    rooms_option,
    run_options,
    size_option,
    target_options,
    was_given,
)
from bench.plan import Load, Target
from bench.procstat import Gone
from bench.report import page_of_comparison, page_of_result
from bench.result import Result
from bench.run import Coordinator, GeneratorFailed, NobodyIn, Watch
from bench.servers import RECIPES, Address, Contender, by_hand
from bench.terminal import Terminal, show_comparison, show_result, wide

USUAL: Final = ",".join(case.name for case in CASES.values() if case.is_usual)
USUAL_SERVERS: Final = ",".join(recipe.name for recipe in RECIPES.values() if recipe.is_usual)


@click.group(context_settings={"show_default": False, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load a conn server, and see what it takes.

    Loads are open: what is due does not wait for answers, and latencies count from when a request should have
    left.  With --pid, CPU time and memory of the server are measured too.
    """


def carries_out(make: Callable[..., Load]) -> Callable[..., None]:
    """Turn a function from its own options to a load into one that carries the load out."""

    @wraps(make)
    def command(**options: Any) -> None:
        way, load = read_way(options), read_load(options)
        target, users = read_target(options.pop("url"), options), read_users(options)
        load = make(load, **options)
        load_and_show(replace(target, tokens=ask_for_tokens(target, users)), load, way)

    return command


def load_and_show(target: Target, load: Load, way: Way) -> None:
    """Carry out a load, show its figures, write what was asked for."""
    console = Console(stderr=True)
    try:
        check_files(load.sockets, way.processes, raise_file_limit())
        with Terminal(console) as terminal:
            watch = terminal.watch(f"{load.workload} {target.url}")
            coordinator = Coordinator(target, load, way.pids, watch)
            result = trio.run(interruptible, partial(run_within, coordinator, way))
    except (TooMany, GeneratorFailed, NobodyIn, Gone) as exc:
        raise click.ClickException(str(exc)) from None
    if result is None:
        raise click.Abort
    show_result(wide(), result)
    write_files(result, way.json_file, way.html_file, page_of_result)
    if not result.total.count("connections"):
        sys.exit(1)  # a storm that nobody got through


async def run_within(coordinator: Coordinator, way: Way, scope: trio.CancelScope) -> Result | None:
    """Carry out a load; None if `scope` is cancelled."""
    with scope:
        return await coordinator.run(way.processes, way.cpu)
    return None


@main.command()
@run_options
@pace_options
@connections_option(default=100)
@rooms_option(default=1)
@rate_option(default="1000", help="heartbeats per second in all, or max")
@click.option("--interval", type=POSITIVE, help="instead of --rate: seconds between one client's heartbeats")
@click.option("--active", type=Finite(0, 1, min_open=True), default=1.0, help="share of them")
@carries_out
def heartbeat(
    load: Load, connections: int, rooms: int, rate: float | None, interval: float | None, active: float
) -> Load:
    """Heartbeats of signed-in clients."""
    load = replace(load, workload="heartbeat", connections=connections, rooms=rooms, active=active)
    return replace(load, rate=load.taking_part / interval if interval else rate)


@main.command()
@run_options
@connections_option(default=1000)
@rooms_option(default=1)
@carries_out
def idle(load: Load, connections: int, rooms: int) -> Load:
    """Clients that sign in and say nothing: memory of the server (--pid)."""
    return replace(load, workload="idle", connections=connections, rooms=rooms)


@main.command()
@run_options
@pace_options
@rooms_option(default=1)
@click.option("--members", type=click.IntRange(1), default=100, show_default=True, help="of each room")
@rate_option(default="10", help="messages per second to all rooms, or max")
@size_option
@important_option
@click.option("--via", type=click.Choice(["websocket", "post"]), default="websocket", show_default=True)
@click.option("--senders", type=click.IntRange(1), default=8, help="connections with --via post")
@click.option("--stalled", type=click.IntRange(0), default=0, help="more of each room that stop reading")
@carries_out
def fanout(load: Load, rooms: int, members: int, **options: Any) -> Load:
    """One speaker in each room of many: pushes, their order and losses."""
    if options["via"] == "post":
        if was_given("important"):
            raise click.UsageError("--important: what is posted is always IMPORTANT")
        options["important"] = 1.0
    return replace(load, workload="fanout", connections=rooms * members, rooms=rooms, **options)


@main.command()
@run_options
@pace_options
@click.option("--senders", type=click.IntRange(1), default=200, show_default=True, help="clients that speak")
@rooms_option(default=50)
@rate_option(default="max", help="messages per second of all, or max")
@size_option
@important_option
@carries_out
def ingest(load: Load, senders: int, rooms: int, **options: Any) -> Load:
    """Everybody speaks: accepted messages per second, and their way back.

    With --client-version 1 accepted is what the server acknowledges, with 0 what comes back.
    """
    return replace(load, workload="ingest", connections=senders, rooms=min(rooms, senders), **options)


@main.command()
@run_options
@pace_options
@connections_option(default=1000, help="that come at once")
@click.option("--residents", type=click.IntRange(0), default=100, show_default=True, help="signed in before")
@click.option("--interval", type=POSITIVE, default=1.0, show_default=True, help="seconds between heartbeats")
@click.option("--retries", type=click.IntRange(0), default=5, show_default=True, help="of who is refused")
@rooms_option(default=1)
@carries_out
def storm(load: Load, connections: int, residents: int, interval: float, retries: int, rooms: int) -> Load:
    """All connect at the same moment; what the others notice of it."""
    return replace(
        load,
        workload="storm",
        connections=connections,
        residents=residents,
        interval_s=interval,
        retries=retries,
        rooms=rooms,
    )


@main.command()
@run_options
@pace_options
@connections_option(default=1000)
@rooms_option(default=1)
@rate_option(default="100", help="clients per second that leave and come back")
@carries_out
def churn(load: Load, connections: int, rooms: int, rate: float | None) -> Load:
    """Clients leave and come back."""
    if rate is None:
        raise click.UsageError("churn needs a rate")
    return replace(load, workload="churn", connections=connections, rooms=rooms, rate=rate)


@main.command()
@run_options
@pace_options
@rooms_option(default=10)
@click.option("--members", type=click.IntRange(1), default=5, show_default=True, help="of each room")
@click.option("--senders", type=click.IntRange(1), default=8, show_default=True, help="HTTP connections")
@rate_option(default="100", help="requests per second, or max")
@size_option
@carries_out
def push(load: Load, rooms: int, members: int, **options: Any) -> Load:
    """Back ends push with POST /msg."""
    return replace(load, workload="push", via="post", connections=rooms * members, rooms=rooms, **options)


@main.command()
@target_options
@click.option("--servers", default=USUAL_SERVERS, show_default=True, help=f"of {', '.join(RECIPES)}")
@click.option("--add", "added", multiple=True, metavar="NAME=SERVER", help="ws://…#PID,PID or command {port}")
@click.option("--cases", "names", default=USUAL, show_default=True, help=f"of {', '.join(CASES)}")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--minutes", type=POSITIVE, default=60.0, show_default=True, help="no round that ends later")
@click.option(
    "--duration", type=POSITIVE, default=3.0, show_default=True, help="but of cases that have their own"
)
@click.option("--heartbeat-rate", type=RateType(), help="instead of the cases' own")
@click.option("--fanout-rate", type=RateType(), help="instead of the cases' own")
@click.option("--baseline", default="floor", show_default=True)
@click.option("--server-cpu", type=CoreType(), default=0, show_default=True, help="-1: any")
@click.option("--generator-cpu", type=CoreType(), default=1, show_default=True, help="-1: any")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True)
@file_options
def compare(**options: Any) -> None:
    """Several servers in turn, round after round: medians of ratios.

    A server is on one core, the generator on another.  SERVER may be one that is running; the options
    about tokens are for those.
    """
    target, users = read_target("", options), read_users(options)
    contenders = read_contenders(options["servers"], options["added"], target, users)
    cases = read_cases(options)
    terms = Terms(
        target=target,
        rounds=options["rounds"],
        processes=options["processes"],
        baseline=read_baseline(options["baseline"], contenders),
        budget_s=60 * options["minutes"],
        server_cpu=options["server_cpu"],
        generator_cpu=options["generator_cpu"],
    )
    try:
        for case in cases:
            check_files(case.load.sockets, terms.processes, raise_file_limit())
        with Terminal(Console(stderr=True)) as terminal:

            def watch(case: Case, server: str, number: int) -> Watch:
                return terminal.watch(f"{case.name}  round {number + 1}  {server}")

            comparison: Comparison = trio.run(
                interruptible, partial(run_comparison, contenders, cases, terms, watch)
            )
    except TooMany as exc:
        raise click.ClickException(str(exc)) from None
    show_comparison(wide(), comparison)
    write_files(comparison, options["json_file"], options["html_file"], page_of_comparison)
    if not list(comparison.rows()):
        sys.exit(1)


def read_contenders(servers: str, added: tuple[str, ...], target: Target, users: int) -> list[Contender]:
    """Return the servers that were named; those that run already are asked for the tokens of `users`."""
    unknown = [name for name in servers.split(",") if name and name not in RECIPES]
    if unknown:
        raise click.UsageError(f"unknown server {unknown[0]!r}; there are {', '.join(RECIPES)}")
    try:
        others = [by_hand(text, target.secret) for text in added]
    except ValueError as exc:
        raise click.UsageError(str(exc)) from None
    for place, other in enumerate(others):
        if isinstance(other, Address):
            tokens = ask_for_tokens(replace(target, url=other.running.url), users)
            others[place] = replace(other, running=replace(other.running, tokens=tokens))
    return [*(RECIPES[name] for name in servers.split(",") if name), *others]


def read_baseline(name: str, contenders: Sequence[Contender]) -> str:
    """Return the name of the server to compare with; the usual one may be missing, and ratios with it."""
    names = [contender.name for contender in contenders]
    if name not in names and was_given("baseline"):
        raise click.UsageError(f"unknown baseline {name!r}; compared are {', '.join(names)}")
    return name


def read_cases(options: dict[str, Any]) -> list[Case]:
    """Return the cases that were named, with the rates and the duration that were asked for."""
    cases = []
    for name in options["names"].split(","):
        if name not in CASES:
            raise click.UsageError(f"unknown case {name!r}; there are {', '.join(CASES)}")
        case = CASES[name]
        load = case.load
        if load.workload not in ("idle", "storm"):
            load = replace(load, duration_s=options["duration"], ramp_s=0.5)
        rate = f"{load.workload}_rate"
        if rate in options and was_given(rate):
            load = replace(load, rate=options[rate])
        cases.append(replace(case, load=load))
    return cases


Shown = TypeVar("Shown", Result, Comparison)


def write_files(
    result: Shown, json_file: Path | None, html_file: Path | None, page: Callable[[Shown], str]
) -> None:
    """Write what was asked for."""
    if json_file is not None:
        json_file.write_bytes(indent(encode(document_of(result)), indent=2) + b"\n")
    if html_file is not None:
        html_file.write_text(page(result), encoding="utf-8")


def document_of(result: Result | Comparison) -> dict[str, object]:
    """Return what goes into the JSON file: the figures, the doubts, and all that they were taken from."""
    if isinstance(result, Comparison):
        return {"rows": list(result.rows()), "comparison": result}
    return {"figures": figures_of(result), "verdicts": verdicts_of(result), "result": result}


if __name__ == "__main__":
    main()
