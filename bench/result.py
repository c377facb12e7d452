"""What a run has shown, as it is stored.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bench.outcome import Total
from bench.plan import Load
from bench.procstat import Spent


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment of a run.

    Attributes:
        at_s: since the load began; negative before.
        rate: units per second since the sample before.
        cores: of the server, likewise; 0 when it is not watched.
        rss_bytes: of the server.
    """

    at_s: float
    signed_in: int
    rate: float
    cores: float
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What the watched processes of the server have used; `--pid` names them.

    Attributes:
        rss_bytes: before the first connection.
        opening: from then until everybody was in.
        measured: in the measured time; of a storm: from its moment until all have come in or given up.
        fullest: the share of the clients in the process that has most of them; 0 where that is unknown.
        cores: that they can keep busy, by where they may run.
        gone: which of them has ended during the run, in one line; empty when none has.
    """

    pids: tuple[int, ...]
    rss_bytes: int
    opening: Spent
    measured: Spent
    fullest: float
    cores: int
    gone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run.

    Attributes:
        began_at: UTC, ISO 8601.
        machine: processor count, kernel and Python.
        opened: counts when everybody was in.
        opening_s: from the first connect until then, of those who were opened first.
    """

    url: str
    version: int
    load: Load
    processes: int
    began_at: str
    machine: str
    opened: Total
    opening_s: float
    total: Total
    server: Server | None
    samples: tuple[Sample, ...]
