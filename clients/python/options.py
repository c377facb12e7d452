"""What a client can be told, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each wait of a link may take, in seconds."""

    connect_s: float = 10.0
    answer_s: float = 10.0
    write_s: float = 10.0
    close_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a client behaves.

    Attributes:
        deadlines: of every wait.
        heartbeat_interval_s: None is a third of what the server tolerates (a Go-era server: 60 s).
        max_frame_bytes: a larger frame from the server ends the connection with 1009.
        max_buffered_messages: that the application has not read; see inbox.py for what happens beyond.
        max_buffered_bytes: the same in bytes of data.
    """

    deadlines: Deadlines = field(default_factory=Deadlines)
    heartbeat_interval_s: float | None = None
    max_frame_bytes: int = 1 << 20
    max_buffered_messages: int = 4096
    max_buffered_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True)
class Statistics:
    """A client's counters.

    Attributes:
        buffered, buffered_bytes: received, and not read by the application yet.
        dropped: NORMAL messages that did not fit the buffer.
        malformed: frames that could not be understood.
        unexpected: answers whose caller had gone.
    """

    frames_sent: int
    frames_received: int
    pushes: int
    messages: int
    buffered: int
    buffered_bytes: int
    dropped: int
    malformed: int
    unexpected: int
