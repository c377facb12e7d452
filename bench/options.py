"""The options that the commands of `python -m bench` share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from bench.limits import MAX_SOURCES
from bench.plan import Load, Target
from bench.sequence import HEAD_BYTES
from bench.tokens import NoToken, fetch_tokens, read_secret
from bench.trust import tls_context

DEFAULT_URL: Final = "ws://127.0.0.1:8081/room"


class RateType(click.ParamType[float | None]):
    """A number per second, or `max` (None): each client goes on as soon as it has its answer."""

    name = "RATE"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if value == "max":
            return None
        try:
            rate = float(str(value))
        except ValueError:
            rate = nan
        if not 0 < rate < inf:
            self.fail(f"{value!r} is neither a number over 0 nor `max`", param, ctx)
        return rate


class Finite(click.FloatRange):
    """A number within bounds, of which FloatRange itself lets nan and an infinite one pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class CoreType(click.ParamType[int | None]):
    """A core that this process may run on; -1: any (None)."""

    name = "CORE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        cores = sorted(os.sched_getaffinity(0))
        if str(value) == "-1":
            return None
        if str(value) not in map(str, cores):
            self.fail(f"{value!r} is none of the cores {', '.join(map(str, cores))} (-1: any)", param, ctx)
        return int(str(value))


class OutputType(click.Path):
    """A file that can be written, which is known before the load and not after it."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        if not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"{str(path)!r} cannot be written", param, ctx)
        return path


POSITIVE: Final = Finite(0, min_open=True)
NOT_NEGATIVE: Final = Finite(0)
SHARE: Final = Finite(0, 1)


Options = Callable[[Callable[..., Any]], Callable[..., Any]]


def all_of(*options: Options) -> Options:
    """Return one decorator that adds several options, shown in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


target_options = all_of(
    click.option("--client-version", type=click.IntRange(0, 1), default=1, help="0: Go era; 1 by default"),
    click.option(
        "--secret-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="to sign with"
    ),
    click.option("--token-secret", metavar="VARIABLE", help="the environment variable that holds the secret"),
    click.option("--tk", is_flag=True, help="fetch tokens from POST /tk"),
    click.option("--users", type=click.IntRange(1), default=100, show_default=True, help="tokens to fetch"),
    # Resolved: generators run in a folder of their own.
    click.option(
        "--ca-file", type=click.Path(exists=True, dir_okay=False, resolve_path=True), help="for wss://"
    ),
    click.option("--insecure", is_flag=True, help="wss:// without checking the certificate"),
)
file_options = all_of(
    click.option("--json", "json_file", type=OutputType(), help="write JSON"),
    click.option("--html", "html_file", type=OutputType(), help="write a page"),
)
run_options = all_of(
    click.argument("url", default=DEFAULT_URL),
    target_options,
    click.option("--pid", "pids", type=click.IntRange(1), multiple=True, help="of the server; repeatable"),
    click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="generators"),
    click.option("--cpu", type=CoreType(), help="the core for the generators"),
    click.option("--duration", type=POSITIVE, default=10.0, show_default=True, help="seconds, measured"),
    click.option("--seed", type=int, default=1, show_default=True),
    click.option("--at-once", type=click.IntRange(1), default=128, show_default=True, help="being opened"),
    click.option(
        "--connect-rate", type=NOT_NEGATIVE, default=0.0, help="opened per second; 0: as fast as it goes"
    ),
    click.option(
        "--source-addresses",
        type=click.IntRange(0, MAX_SOURCES),
        default=0,
        help="127.0.0.1-N; 0: as many as needed",
    ),
    file_options,
)
pace_options = all_of(
    click.option("--ramp", type=NOT_NEGATIVE, default=1.0, show_default=True, help="seconds to the rate"),
    click.option("--drain", type=NOT_NEGATIVE, default=3.0, show_default=True, help="seconds afterwards"),
    click.option("--arrivals", type=click.Choice(["even", "poisson"]), default="even", show_default=True),
)


def was_given(name: str) -> bool:
    """Whether an option of the command that runs was given, its default aside."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source is not ParameterSource.DEFAULT


rate_option = partial(click.option, "--rate", type=RateType(), show_default=True)
connections_option = partial(click.option, "--connections", type=click.IntRange(1), show_default=True)
rooms_option = partial(click.option, "--rooms", type=click.IntRange(1), show_default=True)
size_option = click.option(
    "--size", type=click.IntRange(HEAD_BYTES), default=256, show_default=True, help="bytes of a message"
)
important_option = click.option(
    "--important", type=SHARE, default=0.1, show_default=True, help="share of IMPORTANT ones"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a load is carried out, whichever it is."""

    pids: tuple[int, ...]
    processes: int
    cpu: int | None
    json_file: Path | None
    html_file: Path | None


def read_way(options: dict[str, Any]) -> Way:
    """Take out of `options` how a load is carried out."""
    names = ("pids", "processes", "cpu", "json_file", "html_file")
    return Way(**{name: options.pop(name) for name in names})


def read_load(options: dict[str, Any]) -> Load:
    """Take out of `options` what all loads have; the rest is the command's."""
    names = ("seed", "at_once", "connect_rate", "source_addresses")
    return replace(
        Load(workload=""),
        duration_s=options.pop("duration"),
        ramp_s=options.pop("ramp", 0.0),  # a load without a pace has neither this nor the next two
        drain_s=options.pop("drain", 0.0),
        arrivals=options.pop("arrivals", "even"),
        **{name: options.pop(name) for name in names},
    )


def read_target(url: str, options: dict[str, Any]) -> Target:
    """Take what is about the target out of `options`, but for the tokens that it is asked for."""
    secret_file, variable = options.pop("secret_file"), options.pop("token_secret")
    try:
        target = Target(
            url=url,
            version=options.pop("client_version"),
            secret=read_secret(secret_file, variable),
            ca_file=options.pop("ca_file") or "",
            insecure=options.pop("insecure"),
        )
        tls_context(target.ca_file, is_checked=True)
    except (NoToken, OSError, ValueError) as exc:
        raise click.ClickException(str(exc)) from None
    return target


def read_users(options: dict[str, Any]) -> int:
    """Take out of `options` for how many users the server is asked for tokens; 0: it is not asked."""
    use_tk, users = options.pop("tk"), options.pop("users")
    return users if use_tk else 0


def ask_for_tokens(target: Target, users: int) -> tuple[str, ...]:
    """Return the tokens of so many users."""
    try:
        return fetch_tokens(target, users) if users else ()
    except NoToken as exc:
        raise click.ClickException(str(exc)) from None
