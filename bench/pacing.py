"""Who acts when: on a schedule (open loop), or as soon as there is an answer (closed loop)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from time import monotonic_ns
from typing import Final, Protocol

from bench.engine import Engine
from bench.poller import NEVER, Pace
from bench.schedule import NS, due_times

PORTION: Final = 32
"""Sent at most between two looks at the sockets: about 0.2 ms."""


class Actor(Protocol):
    """Somebody who can send one unit of a load."""

    def can_act(self) -> bool:
        """Whether it is connected."""

    def act(self, due_ns: int) -> None:
        """Send what was due at a time (monotonic ns)."""


class OpenLoop:
    """Actors in turn, in a random order, each unit at its time whether or not others were answered.

    What is due in the measured time from one who cannot act is not sent; `counts["skipped"]` says how much.

    Args:
        rate: units per second of this process: its actors' share, for it may have fewer than others, or none.
        start_ns: monotonic.
    """

    def __init__(self, engine: Engine, actors: Sequence[Actor], rate: float, start_ns: int) -> None:
        plan = engine.plan
        self._counts = engine.counts
        self._start_ns = start_ns
        self._open_ns = start_ns + int(plan.load.ramp_s * NS)
        self._due = due_times(
            rate,
            ramp_s=plan.load.ramp_s,
            phase=plan.process / plan.processes,
            gaps=engine.random if plan.load.arrivals == "poisson" else None,
        )
        self._lateness = engine.span("lateness")
        turn = list(actors)
        engine.random.shuffle(turn)
        self._turn = cycle(turn)
        self._next_ns = start_ns + next(self._due) if turn else NEVER

    def pace(self, now: int) -> int:
        """Send a portion of what is due."""
        for _ in range(PORTION):
            due_ns = self._next_ns
            if due_ns > now:
                return due_ns
            actor = next(self._turn)
            if actor.can_act():
                actor.act(due_ns)
                self._lateness.record(now - due_ns)
            elif due_ns >= self._open_ns:
                self._counts["skipped"] += 1
            self._next_ns = self._start_ns + next(self._due)
        return min(self._next_ns, monotonic_ns())


def everybody_once(actors: Sequence[Actor]) -> Pace:
    """Return a pace that lets every actor act at once, one time: the beginning of a closed loop."""
    rest = iter(actors)

    def pace(now: int) -> int:
        for _ in range(PORTION):
            actor = next(rest, None)
            if actor is None:
                return NEVER
            if actor.can_act():
                actor.act(now)
        return now

    return pace
