"""What is known about one worker, and what follows from it.  Pure.

    stopped --started--> starting --READY=1--> serving --STOPPING=1--> draining
       ^                    |                     |                       |
       +------- ended ------+---------------------+-----------------------+

Rules
1. A worker that does not say READY=1 in time, or later does not say WATCHDOG=1 in time, is late.
2. A worker that has ended is started again after a pause, which doubles with each end up to a cap and is
   drawn from half to all of that; one that served for a while has the shortest pause again.
3. Each end has one reason: the one we ended it for, otherwise what its exit code says.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import inf
from types import MappingProxyType
from typing import Final

from runtime.units import format_duration

START_WITHIN_S: Final = 60.0
SHORTEST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 15.0
STEADY_S: Final = 60.0
_REASONS: Final[Mapping[int, str]] = MappingProxyType({0: "drained", 2: "setup"})  # runtime/lifecycle.py


class State(StrEnum):
    """Where a worker is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Health:
    """The life of one worker, over all its processes.  Owned by the worker's task.

    Args:
        feed_s: the longest time between two signs of life.

    Attributes:
        feed_s: the same.
        state: of the process that there is.
        has_served: one of the processes was ready once.
        due: until when the next sign of life must come.
        ends: reason -> how many processes have ended for it.
    """

    def __init__(self, feed_s: float) -> None:
        self.feed_s = feed_s
        self.state = State.STOPPED
        self.has_served = False
        self.due = inf
        self.ends: dict[str, int] = {}
        self._failures = 0
        self._serving_since = inf
        self._blame = ""

    def started(self, now: float) -> None:
        """There is a new process."""
        self.state = State.STARTING
        self.due = now + START_WITHIN_S
        self._serving_since = inf
        self._blame = ""

    def heard(self, said: str, now: float) -> None:
        """Take one assignment of sd_notify(3), such as "READY=1"; what is not known changes nothing."""
        if said == "READY=1" and self.state is State.STARTING:
            self.state = State.SERVING
            self.has_served = True
            self._serving_since = now
            self.due = now + self.feed_s
        elif said == "STOPPING=1" and self.state is not State.STOPPED:
            self.state = State.DRAINING
            self.due = now + self.feed_s
        elif said == "WATCHDOG=1" and self.state in {State.SERVING, State.DRAINING}:
            self.due = now + self.feed_s

    def is_late(self, now: float) -> bool:
        """Return whether the next sign of life is overdue."""
        return now >= self.due

    def blame(self) -> str:
        """Note that the process is ended because it is late; return why in words."""
        if self.state is State.STARTING:
            self._blame = "not_ready"
            return f"not ready after {format_duration(START_WITHIN_S)}"
        self._blame = "stalled"
        return f"no sign of life for {format_duration(self.feed_s)}"

    def ended(self, exit_code: int, now: float) -> str:
        """Note the end of the process; return the reason.

        Args:
            exit_code: as Python has it, negative for a signal.
            now: in the clock of all the others.
        """
        reason = self._blame or _reason(exit_code)
        self._count(reason)
        if now - self._serving_since >= STEADY_S:
            self._failures = 0
        self._failures += 1
        return reason

    def not_started(self) -> None:
        """Note that there could be no process at all."""
        self._count("not_started")
        self._failures += 1

    def pause_s(self, chance: float) -> float:
        """Return how long to wait before the next start.

        Args:
            chance: drawn from 0 to 1.
        """
        longest_s = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2.0 ** min(self._failures - 1, 32))
        return longest_s * (0.5 + chance / 2)

    def _count(self, reason: str) -> None:
        self.state, self.due = State.STOPPED, inf
        self.ends[reason] = self.ends.get(reason, 0) + 1


def _reason(exit_code: int) -> str:
    if exit_code < 0:
        return "killed"
    return _REASONS.get(exit_code, "failed")
