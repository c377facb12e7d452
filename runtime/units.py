"""What stands in a settings file as text: durations, sizes, addresses; and their types in a record.  Pure.

Rules
1. A record holds seconds as float (`_s`), sizes as int (`_bytes`), addresses as the text they came as.
2. A duration is a string of Go's form ("1m30s", "250ms") or an integer of nanoseconds, as Go reads it.
3. An address is HOST:PORT, [V6]:PORT, or :PORT for all addresses of the machine.  A name with an empty label,
   or one over 63 letters, is no host: the resolver would not say that it is unknown, but raise UnicodeError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

from msgspec import Meta

NANOSECONDS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "ns": 1,
        "us": 1_000,
        "µs": 1_000,  # U+00B5, micro sign
        "μs": 1_000,  # U+03BC, Greek letter
        "ms": 1_000_000,
        "s": 1_000_000_000,
        "m": 60_000_000_000,
        "h": 3_600_000_000_000,
    }
)
BYTES: Final[Mapping[str, int]] = MappingProxyType({"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30})

_DURATION_PART: Final = re.compile(r"(\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_SIZE: Final = re.compile(r"(\d{1,15})\s*(B|KiB|MiB|GiB)", re.ASCII)
_HOST: Final = re.compile(r"[^\s\[\]/@:]*|\[[0-9A-Fa-f:.]+(%[^\s\[\]/]+)?\]")
_SHORTEST_NS: Final = 1_000_000


class Address(NamedTuple):
    """Where to listen or whom to dial; an empty host is all addresses of the machine."""

    host: str
    port: int


def parse_duration(value: object) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: not a duration, or an integer that was surely not meant as nanoseconds.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0 or 0 < value < _SHORTEST_NS:
            raise ValueError(
                f'a duration such as "{abs(value)}s" (a bare integer is nanoseconds, 1 ms at least)'
            )
        return value / 1e9
    if isinstance(value, str):
        if value == "0":
            return 0.0
        parts = _DURATION_PART.findall(value)
        if parts and "".join(map("".join, parts)) == value:
            return sum(float(number) * NANOSECONDS[unit] for number, unit in parts) / 1e9
    raise ValueError('a duration such as "1s", "1m30s" or "250ms", or integer nanoseconds')


def format_duration(seconds: float) -> str:
    """Return `seconds` in the form that `parse_duration` reads, to the nanosecond."""
    rest, parts = round(seconds * 1e9), []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, NANOSECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_seconds(value: object) -> float:
    """Return a duration that is written in plain seconds; "5s" is taken as well.

    Raises:
        ValueError: neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError("a number of seconds") from None


def format_seconds(seconds: float) -> int | float:
    """Return `seconds` as a number, whole where it is."""
    return int(seconds) if seconds == int(seconds) else seconds


def parse_size(value: object) -> int:
    """Return a size in bytes.

    Raises:
        ValueError: not a size.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(match[1]) * BYTES[match[2]]
    raise ValueError('a size: integer bytes, or a string such as "64KiB" or "1MiB"')


def format_size(size_bytes: int) -> str | int:
    """Return `size_bytes` in its largest whole unit."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % BYTES[unit] == 0:
            return f"{size_bytes // BYTES[unit]}{unit}"
    return size_bytes


def split_address(text: str) -> Address:
    """Return host (without brackets) and port.

    Raises:
        ValueError: not an address.
    """
    host, colon, port = text.rpartition(":")
    if (
        not colon
        or not port.isdecimal()
        or not port.isascii()
        or int(port) > 65535
        or not _HOST.fullmatch(host)
        or not is_host(host)
    ):
        raise ValueError('an address such as "127.0.0.1:8081", ":8081" or "[::1]:8081"')
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def is_host(text: str) -> bool:
    """Say whether a resolver, or TLS, can be asked for `text`; empty is no question."""
    try:
        text.encode("idna")  # as both do first
    except UnicodeError:
        return False
    return True


def split_peer(text: str) -> Address:
    """Return host (without brackets) and port of an address that is dialled: it needs both.

    Raises:
        ValueError: not such an address.
    """
    address = split_address(text)
    if not address.host or not address.port:
        raise ValueError('an address with a host and a port, such as "127.0.0.1:6000"')
    return address


def format_address(host: str, port: int) -> str:
    """Return the text of an address; an IPv6 host gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_bind(value: object) -> str:
    """Return the text of an address to listen on.

    Raises:
        ValueError: not an address.
    """
    text = value if isinstance(value, str) else ""
    split_address(text)
    return text


def parse_peer(value: object) -> str:
    """Return the text of an address that others can dial: it needs a host.

    Raises:
        ValueError: not an address, or one without a host.
    """
    text = value if isinstance(value, str) else ""
    if not split_address(text).host:
        raise ValueError('an address with a host, such as "127.0.0.1:6000": others are told to dial it')
    return text


def parse_dialled(value: object) -> str:
    """Return the text of an address to dial: it needs a host and a port.

    Raises:
        ValueError: not such an address.
    """
    text = value if isinstance(value, str) else ""
    split_peer(text)
    return text


def parse_peers(value: object) -> tuple[str, ...]:
    """Return the texts of addresses to dial: an array, or one string with commas.

    Raises:
        ValueError: one is not an address.
    """
    texts = value.split(",") if isinstance(value, str) else value
    if isinstance(texts, list | tuple):
        return tuple(parse_dialled(text.strip() if isinstance(text, str) else text) for text in texts)
    raise ValueError('addresses such as ["127.0.0.1:2379"]')


class Notation(NamedTuple):
    """How the values of one type are read from a file and written to one."""

    parse: Callable[[object], object]
    write: Callable[..., object]


def _optional(parse: Callable[[object], str]) -> Callable[[object], str]:
    return lambda value: "" if value == "" else parse(value)


def _as_it_is(value: object) -> object:
    return value


def _notation(parse: Callable[[object], object], write: Callable[..., object] = _as_it_is) -> Meta:
    return Meta(extra={"notation": Notation(parse, write)})


Duration = Annotated[float, Meta(ge=0), _notation(parse_duration, format_duration)]
"""Seconds; may be 0 where that means "none"."""
PositiveDuration = Annotated[float, Meta(gt=0), _notation(parse_duration, format_duration)]
Seconds = Annotated[float, Meta(gt=0), _notation(parse_seconds, format_seconds)]
Size = Annotated[int, Meta(gt=0), _notation(parse_size, format_size)]
Bind = Annotated[str, _notation(parse_bind)]
OptionalBind = Annotated[str, _notation(_optional(parse_bind))]
Peer = Annotated[str, _notation(parse_peer)]
OptionalPeer = Annotated[str, _notation(_optional(parse_peer))]
Peers = Annotated[tuple[str, ...], _notation(parse_peers)]
Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(ge=0)]
