"""How many may be connected, from one address and in all, and how fast they may come.  Pure.

Rules
1. A connection counts from `enter` to `leave`, whatever it is in between: held, opening, client or HTTP.
2. What is refused is counted by its reason.
3. The pace is the generic cell rate algorithm (ITU-T I.371) on one float: when the next is due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn


class Full(Exception):
    """There is no place.

    Attributes:
        status: of the HTTP answer.
        reason: for the counter.
        text: what to tell the client.
    """

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(status, reason, text)
        self.status = status
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """Connections and addresses now; admitted and refused (by reason) since the start."""

    connections: int
    addresses: int
    admitted: int
    refused: Mapping[str, int]


class Admission:
    """The places of one node.  Owned by the conn server's app.

    Args:
        max_connections: in all.
        per_address: from one address; 0 is no limit.
    """

    def __init__(self, max_connections: int, per_address: int) -> None:
        self._max_connections = max_connections
        self._per_address = per_address
        self._connections = 0
        self._admitted = 0
        self._counts: dict[str, int] = {}  # by address, as long as that matters
        self._refused: Counter[str] = Counter()

    def enter(self, address: str) -> str:
        """Take a place; return what `leave` wants to know.

        Raises:
            Full: there is none.
        """
        if self._connections >= self._max_connections:
            self._refuse(503, "connections", "this node is full, try again later")
        counted = address if self._per_address else ""
        if counted:
            count = self._counts.get(counted, 0)
            if count >= self._per_address:
                self._refuse(429, "address", "too many connections from this address")
            self._counts[counted] = count + 1
        self._connections += 1
        self._admitted += 1
        return counted

    def leave(self, counted: str) -> None:
        """Give a place back; once for each `enter`."""
        self._connections -= 1
        if counted:
            self._counts[counted] -= 1
            if not self._counts[counted]:
                del self._counts[counted]

    def statistics(self) -> AdmissionStatistics:
        """Return what there is now and was so far."""
        return AdmissionStatistics(self._connections, len(self._counts), self._admitted, dict(self._refused))

    def _refuse(self, status: int, reason: str, text: str) -> NoReturn:
        self._refused[reason] += 1
        raise Full(status, reason, text)


class Pace:
    """How fast connections are opened; the rest is accepted all the same, and held.  Owned by the turns.

    Args:
        per_s: on average; 0 is no limit.
        burst: that may come at once.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._interval_s = 1 / per_s if per_s else 0.0
        self._burst = burst
        self._due = 0.0

    def wait_s(self, now: float) -> float:
        """Return how long the next one has to wait, 0 for not at all."""
        if not self._interval_s:
            return 0.0
        return max(0.0, self._due - now - self._interval_s * (self._burst - 1))

    def admit(self, now: float) -> None:
        """Count one that has come; not before it has, or looking in vain would cost places."""
        self._due = max(self._due, now) + self._interval_s
