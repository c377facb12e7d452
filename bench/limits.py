"""What this machine allows a generator: open files, and local ports for its connections."""

from __future__ import annotations

import resource
from ipaddress import ip_address
from typing import Final

RESERVED_FILES: Final = 64
PORTS_PER_ADDRESS: Final = 20_000
"""Of the 28 000 that Linux gives out by default; the rest is for what is still closing."""
MAX_SOURCES: Final = 250


class TooMany(Exception):
    """The machine does not allow so many connections; the text says what to do."""


def raise_file_limit() -> int:
    """Raise the limit of open files as far as this process may; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def check_files(connections: int, processes: int, limit: int) -> None:
    """See that each of `processes` generators may open its share of `connections`.

    Raises:
        TooMany: it may not.
    """
    each = -(-connections // processes)
    possible = limit - RESERVED_FILES
    if each > possible:
        raise TooMany(
            f"{connections} connections in {processes} process(es) are {each} each, and the limit "
            f"of {limit} open files leaves {possible}: use --processes {-(-connections // possible)} or "
            "more, or raise it (ulimit -n)"
        )


def source_addresses(wanted: int, host: str, connections: int) -> tuple[str, ...]:
    """Return the addresses that clients come from; empty where the system may choose.

    A server's address leaves about 28 000 connections from one address.  On loopback, all of 127.0.0.0/8 is
    at hand.

    Args:
        wanted: how many; 0 for as many as needed.
        host: the server's address.

    Raises:
        TooMany: more are needed, and the server is not on loopback.
    """
    needed = wanted or -(-connections // PORTS_PER_ADDRESS)
    if needed <= 1:
        return ()
    address = ip_address(host)
    if address.version != 4 or not address.is_loopback:
        raise TooMany(
            f"{connections} connections to {host} need {needed} source addresses, which only 127.0.0.0/8 "
            "has: run generators on several machines"
        )
    if needed > MAX_SOURCES:
        raise TooMany(f"at most {MAX_SOURCES} source addresses")
    return tuple(f"127.0.0.{last}" for last in range(1, needed + 1))
