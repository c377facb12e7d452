"""What a load is: read by the command line, handed to each generator process as one line of JSON.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

_QUIET_SHARE: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server under load, and how its clients sign in.

    Attributes:
        url: of the WebSocket; its host and port also serve `POST /msg`.
        version: client generation, 0 (Go era: no acknowledgements) or 1.
        secret: signs one token for each user; kept out of texts.
        tokens: used in turn when there is no secret; without any, a made-up text is sent.
        ca_file: whom to trust for wss://; empty: the system's.
        insecure: do not check the certificate.
    """

    url: str
    version: int = 1
    secret: str = field(default="", repr=False)
    tokens: tuple[str, ...] = field(default=(), repr=False)
    ca_file: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is done to it.  Numbers are totals over all generator processes.

    Attributes:
        connections: clients that sign in (in a storm: all at the same moment).
        residents: of a storm: clients that are signed in before, and send heartbeats.
        rooms: they are spread over so many, evenly.
        rate: units per second; None: each client goes on as soon as it has its answer (a closed loop).
        interval_s: of one resident's heartbeats.
        active: the share of clients that take part.
        size: of a message, in bytes.
        stalled: members of each room, beside `connections`, that stop reading once they are signed in.
        important: the share of messages that are IMPORTANT.
        via: how messages get in.
        arrivals: even gaps, or independent ones (a Poisson process).
        duration_s: of the measured time.
        ramp_s: before it, the rate rises from 0; nothing of it is counted.
        drain_s: after it, for answers that are on their way.
        at_once: connections that are being opened at the same time.
        connect_rate: opened per second; 0: as fast as it goes.
        retries: how often a refused client of a storm comes back.
        source_addresses: loopback addresses that clients come from; 0: as many as needed.
        senders: connections that carry `POST /msg`.
    """

    workload: str
    connections: int = 100
    residents: int = 0
    rooms: int = 1
    rate: float | None = None
    interval_s: float = 1.0
    active: float = 1.0
    size: int = 256
    stalled: int = 0
    important: float = 1.0
    via: Literal["websocket", "post"] = "websocket"
    arrivals: Literal["even", "poisson"] = "even"
    duration_s: float = 10.0
    ramp_s: float = 1.0
    drain_s: float = 3.0
    at_once: int = 128
    connect_rate: float = 0.0
    retries: int = 0
    source_addresses: int = 0
    senders: int = 8
    seed: int = 1

    @property
    def sockets(self) -> int:
        """How many connections there are at most."""
        posters = self.senders if self.via == "post" else 0
        return self.connections + self.residents + self.rooms * self.stalled + posters

    @property
    def taking_part(self) -> int:
        """How many clients take part: those with the lowest numbers."""
        return max(1, round(self.connections * self.active))

    def members_of(self, room: int) -> int:
        """Return how many of `connections` are in a room, by its number."""
        return len(range(room, self.connections, self.rooms))

    @property
    def opening_s(self) -> float:
        """How long it takes at least until all are connected."""
        return self.sockets / self.connect_rate if self.connect_rate else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One generator's part of a load.

    Attributes:
        run: marks the messages of this run, so that those of an earlier one are not taken for it.
        process, processes: which part, of how many.
        cpu: the core to stay on, None for any.
    """

    target: Target
    load: Load
    run: int
    process: int = 0
    processes: int = 1
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """When a load begins, counts and ends, in monotonic ns; the same for all processes of a machine."""

    start_ns: int
    open_ns: int
    end_ns: int

    @property
    def storm_ns(self) -> int:
        """When a storm breaks: a third is quiet, and tells what heartbeats take without it."""
        return self.open_ns + (self.end_ns - self.open_ns) // _QUIET_SHARE

    def has(self, time_ns: int) -> bool:
        """Whether a moment is in the measured time."""
        return self.open_ns <= time_ns < self.end_ns
