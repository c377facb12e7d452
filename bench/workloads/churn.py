"""Churn: at a rate, the one who has been there longest leaves and comes back.

counts  connections: signed in at the end; units: came back in the measured time
spans   open: of the opening alone; return: due -> signed in again, the goodbye included; lateness
"""

from __future__ import annotations

from collections import deque

from bench.engine import Engine
from bench.opening import close_all, give_up, numbers_of, open_all
from bench.pacing import OpenLoop
from bench.plan import Window
from bench.user import State, User


class Leaver(User):
    """Leaves when it is its turn, and comes back as soon as the server has closed."""

    __slots__ = ("_churn", "_is_leaving")

    def __init__(self, engine: Engine, number: int, room: str, churn: Churn) -> None:
        super().__init__(engine, number, room)
        self._churn = churn
        self._is_leaving = False

    def go(self, due_ns: int) -> None:
        """Leave, and come back."""
        self._is_leaving = True
        self.due_ns = due_ns
        self.leave()

    def note_opening(self, now: int) -> None:
        if not self._is_leaving:
            super().note_opening(now)

    def signed_in(self, now: int) -> None:
        self._is_leaving = False
        self._churn.came(self, now)

    def left(self, was: State, retry_after_s: float | None) -> None:
        if was is State.LEAVING and self._is_leaving:
            self.start(self.due_ns)


class Churn:
    """Clients of which some come and go; one actor of an open loop, which picks who."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        rooms = engine.plan.load.rooms
        self._users = [Leaver(engine, n, engine.room(n % rooms), self) for n in numbers_of(engine)]
        self._present: deque[Leaver] = deque()  # the longest first
        self._returns = engine.span("return")
        self._window: Window | None = None
        self._units = 0

    async def prepare(self) -> None:
        await open_all(self._engine, self._users)
        self._engine.counts["connections"] = self._engine.signed_in

    async def run(self, window: Window) -> None:
        engine, load = self._engine, self._engine.plan.load
        self._window = window
        part = (load.rate or 0.0) * len(self._users) / load.connections
        loop = OpenLoop(engine, [self] if self._users else [], part, window.start_ns)
        await engine.measure(loop.pace, window, self._is_settled)
        give_up(self._users)
        engine.counts["connections"] = engine.signed_in
        engine.counts["units"] = self._units

    async def finish(self) -> None:
        await close_all(self._engine, self._users)

    def progress(self) -> int:
        return self._units

    def can_act(self) -> bool:
        while self._present and self._present[0].state is not State.SIGNED_IN:
            self._present.popleft()  # lost meanwhile
        return bool(self._present)

    def act(self, due_ns: int) -> None:
        """Let the one who has been here longest go."""
        self._present.popleft().go(due_ns)

    def came(self, user: Leaver, now: int) -> None:
        """Note who is in again."""
        self._present.append(user)
        if self._window is None:
            return
        if self._window.has(now):
            self._units += 1
        if self._window.has(user.due_ns):
            self._returns.record(now - user.due_ns)

    def _is_settled(self) -> bool:
        return not self._engine.opening and not self._engine.leaving
