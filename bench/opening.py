"""Opens many users, and says goodbye to them."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic_ns
from typing import Final

from bench.engine import Engine
from bench.poller import NEVER, no_pace
from bench.schedule import NS, share
from bench.user import State, User

OPEN_TIMEOUT_S: Final = 120.0
GOODBYE_TIMEOUT_S: Final = 3.0
_PORTION: Final = 64


class Opening:
    """Opens users in turn, at a rate and so many at once.  Its `pace` drives it.

    At a rate, a sign-in counts from when its connect should have begun.  `counts["held_up"]` says how many
    could not begin then because too many others were under way.
    """

    def __init__(self, engine: Engine, users: Sequence[User], now: int) -> None:
        load, parts = engine.plan.load, engine.plan.processes
        self._engine = engine
        self._users = users
        self._at_once = max(1, load.at_once // parts)
        self._gap_ns = int(NS * parts / load.connect_rate) if load.connect_rate else 0
        self._next_ns = now
        self._started = 0
        self._is_full = False

    def pace(self, now: int) -> int:
        """Start who is due and fits; called again when somebody has settled."""
        engine, users = self._engine, self._users
        while self._started < len(users) and engine.opening < self._at_once and self._next_ns <= now:
            user = users[self._started]
            self._started += 1
            due_ns = self._next_ns if self._gap_ns else now
            engine.counts["held_up"] += self._is_full and due_ns < now
            self._next_ns += self._gap_ns
            user.start(due_ns)
        self._is_full = engine.opening >= self._at_once
        if self._started == len(users) or self._is_full:
            return NEVER
        return self._next_ns

    def is_done(self) -> bool:
        """Whether everybody is in, or has failed."""
        return self._started == len(self._users) and not self._engine.opening


async def open_all(engine: Engine, users: Sequence[User]) -> None:
    """Open `users` as the load says; who is not in OPEN_TIMEOUT_S after the last should be is given up.

    `counts["opening_ns"]` is how long that took, of those who were opened first.
    """
    began = monotonic_ns()
    opening = Opening(engine, users, began)
    timeout_s = OPEN_TIMEOUT_S + engine.plan.load.opening_s
    await engine.poller.drive(opening.pace, began + int(timeout_s * NS), opening.is_done)
    engine.counts.setdefault("opening_ns", monotonic_ns() - began)
    give_up(users)


async def close_all(engine: Engine, users: Sequence[User]) -> None:
    """Say goodbye to the server, and wait until it has closed, for GOODBYE_TIMEOUT_S at most."""
    rest = iter(users)

    def pace(now: int) -> int:
        for _ in range(_PORTION):
            user = next(rest, None)
            if user is None:
                return NEVER
            user.leave()
        return now

    def is_done() -> bool:
        return not engine.signed_in and not engine.leaving

    until = monotonic_ns() + int(GOODBYE_TIMEOUT_S * NS)
    await engine.poller.drive(pace, until, is_done)
    await engine.poller.drive(no_pace, until, is_done)


def give_up(users: Sequence[User]) -> None:
    """Close the connections that got no answer."""
    for user in users:
        if user.state is State.OPENING:
            user.socket.abort("no answer in time")


def numbers_of(engine: Engine) -> range:
    """Return the numbers of the users that live in this process."""
    plan = engine.plan
    return share(plan.load.connections, plan.process, plan.processes)
