"""Whether a batch has been handed over, when several conn servers are to get it.  Pure.

Rules
1. It is decided when each lane that is waited for has answered, dropped it or gone.
2. A detached lane is not waited for, except as long as nobody at all has answered: then nobody is held up.
3. Decided without any answer, and nothing dropped on purpose: it was handed to nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto


class Outcome(Enum):
    """How one lane was done with one batch."""

    ANSWERED = auto()
    DROPPED = auto()
    GONE = auto()


class Handover:
    """One batch on its way to several conn servers.  Dies when all lanes are done with it.

    Args:
        lanes: how many have been offered it; each settles exactly once.
        done: called once with whether it was handed to anybody; at once if there is no lane.
    """

    __slots__ = ("_done", "_kept", "_outcomes", "_waited")

    def __init__(self, lanes: int, done: Callable[[bool], None]) -> None:
        self._done: Callable[[bool], None] | None = done
        self._waited = lanes
        self._kept = 0
        self._outcomes: set[Outcome] = set()
        self._decide()

    @property
    def is_decided(self) -> bool:
        """Whether `done` has been called: the batch is not on loan any more."""
        return self._done is None

    def keep(self) -> None:
        """Note that a lane that has not settled yet is not to be waited for."""
        self._waited -= 1
        self._kept += 1
        self._decide()

    def settle(self, outcome: Outcome, *, is_kept: bool) -> None:
        """Note that a lane is done; `is_kept`: it had said `keep`."""
        if is_kept:
            self._kept -= 1
        else:
            self._waited -= 1
        self._outcomes.add(outcome)
        self._decide()

    def _decide(self) -> None:
        if self._done is None or self._waited or (self._kept and Outcome.ANSWERED not in self._outcomes):
            return
        done, self._done = self._done, None
        done(not self._outcomes.isdisjoint((Outcome.ANSWERED, Outcome.DROPPED)))
