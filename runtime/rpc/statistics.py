"""Plain counters of an end of RPC, and the record that `statistics()` returns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RpcStatistics:
    """What a server or a channel has done so far.

    Attributes:
        calls: ended calls by method ("/logic.Logic/Auth") and status name.
        in_flight: calls that are going on.
        connections: connections that are open.
        connected: connections there have been; on a channel, all after the first are reconnects.
        received_bytes: read from sockets.
        sent_bytes: written to sockets.
        failures: connections that were refused or ended, by reason.
    """

    calls: dict[tuple[str, str], int] = field(metadata={"labels": ("method", "status")})
    in_flight: int
    connections: int
    connected: int
    received_bytes: int
    sent_bytes: int
    failures: dict[str, int]

    @property
    def reconnects(self) -> int:
        """How often a channel has come back."""
        return max(0, self.connected - 1)


class Counters:
    """The counters behind `RpcStatistics`.  Owned by one server or channel."""

    __slots__ = (
        "calls",
        "connected",
        "connections",
        "failures",
        "in_flight",
        "received_bytes",
        "sent_bytes",
    )

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[str] = Counter()
        self.in_flight = 0
        self.connections = 0
        self.connected = 0
        self.received_bytes = 0
        self.sent_bytes = 0

    def statistics(self) -> RpcStatistics:
        """Return the counters as they are now."""
        return RpcStatistics(
            calls=dict(self.calls),
            in_flight=self.in_flight,
            connections=self.connections,
            connected=self.connected,
            received_bytes=self.received_bytes,
            sent_bytes=self.sent_bytes,
            failures=dict(self.failures),
        )
