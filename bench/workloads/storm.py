"""A storm: everybody connects at the same moment, while those who are there go on with their heartbeats.

The first third of the measured time is quiet: it tells what the others' heartbeats take without a storm.

counts  connections: signed in at the end; units: signed in by the storm; unsettled: neither in nor given up;
        storm_ns: until the last had settled
spans   open: the storm's moment -> signed in; quiet, stormy: due -> answer of heartbeats before and during it
"""

from __future__ import annotations

from heapq import heappop, heappush
from time import monotonic_ns
from typing import Final

from bench.beater import Beater
from bench.engine import Engine
from bench.opening import close_all, give_up, numbers_of, open_all
from bench.pacing import OpenLoop
from bench.plan import Window
from bench.poller import NEVER, Pace
from bench.schedule import NS, share
from bench.user import State, User

RETRY_S: Final = 1.0
_PORTION: Final = 8
"""Newcomers that connect between two looks at the residents; 0.1 ms each, by which heartbeats are late."""


class Newcomer(User):
    """Comes with the storm; who is refused comes back after the time that the server asks for."""

    __slots__ = ("_storm", "_tries")

    def __init__(self, engine: Engine, number: int, room: str, storm: Storm) -> None:
        super().__init__(engine, number, room)
        self._storm = storm
        self._tries = 0

    def signed_in(self, now: int) -> None:
        self._storm.settle(now)

    def left(self, was: State, retry_after_s: float | None) -> None:
        if was is not State.OPENING:
            return
        if self._tries >= self.engine.plan.load.retries:
            self._storm.settle(monotonic_ns())
            return
        self._tries += 1
        pause_s = RETRY_S if retry_after_s is None else retry_after_s
        self._storm.come_back(self, pause_s * (1 + self.engine.random.random() / 2))


class Storm:
    """Newcomers, and the residents whom they should not disturb."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        plan, load = engine.plan, engine.plan.load
        self._residents = [
            Beater(engine, number, engine.room(number % load.rooms), self._answered)
            for number in share(load.residents, plan.process, plan.processes)
        ]
        self._newcomers = [
            Newcomer(engine, load.residents + number, engine.room(number % load.rooms), self)
            for number in numbers_of(engine)
        ]
        self._quiet, self._stormy = engine.span("quiet"), engine.span("stormy")
        self._next = 0  # newcomer to come
        self._back: list[tuple[int, int, Newcomer]] = []  # when, number (to compare), who
        self._settled = 0
        self._window = Window(0, 0, 0)
        self._moment_ns = self._over_ns = NEVER

    async def prepare(self) -> None:
        await open_all(self._engine, self._residents)
        self._engine.counts["connections"] = self._engine.signed_in
        self._engine.spans.pop("open", None)  # of the residents; from here on, of the storm

    async def run(self, window: Window) -> None:
        engine = self._engine
        self._window = window
        self._moment_ns = window.storm_ns
        beats = self._beats(window)

        def pace(now: int) -> int:
            return min(beats(now), self._newcomers_pace(now))

        await engine.measure(pace, window, self._is_drained)
        engine.counts["unsettled"] = len(self._newcomers) - self._settled
        give_up(self._newcomers)
        end_ns = self._over_ns if self._over_ns != NEVER else monotonic_ns()
        engine.counts["storm_ns"] = end_ns - self._moment_ns
        engine.counts["units"] = sum(user.state is State.SIGNED_IN for user in self._newcomers)
        engine.counts["connections"] = engine.signed_in
        engine.counts["unanswered"] = engine.unanswered

    async def finish(self) -> None:
        await close_all(self._engine, [*self._residents, *self._newcomers])

    def progress(self) -> int:
        return self._settled

    def settle(self, now: int) -> None:
        """Note that a newcomer is in, or has given up."""
        self._settled += 1
        if self._settled == len(self._newcomers):
            self._over_ns = now

    def come_back(self, user: Newcomer, pause_s: float) -> None:
        """Let a newcomer try again after a pause."""
        heappush(self._back, (monotonic_ns() + int(pause_s * NS), user.number, user))

    def _beats(self, window: Window) -> Pace:
        rate = len(self._residents) / self._engine.plan.load.interval_s
        return OpenLoop(self._engine, self._residents, rate, window.start_ns).pace

    def _newcomers_pace(self, now: int) -> int:
        if now < self._moment_ns:
            return self._moment_ns
        for user in self._newcomers[self._next : self._next + _PORTION]:
            self._next += 1
            user.start(self._moment_ns)
        if self._next < len(self._newcomers):
            return now
        while self._back and self._back[0][0] <= now:
            heappop(self._back)[2].start(self._moment_ns)
        return self._back[0][0] if self._back else NEVER

    def _answered(self, _: Beater, due_ns: int, now: int) -> None:
        if not self._window.has(due_ns):
            return
        if due_ns < self._moment_ns:
            self._quiet.record(now - due_ns)
        elif due_ns < self._over_ns:
            self._stormy.record(now - due_ns)

    def _is_drained(self) -> bool:
        return self._settled == len(self._newcomers) and not self._engine.unanswered
