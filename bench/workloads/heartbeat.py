"""Heartbeats: what a chat node is busy with when nobody talks.

counts  units: answered in the measured time; unanswered: sent and never answered
spans   latency: due (in the measured time) -> answer; lateness: due -> sent; open
"""

from __future__ import annotations

from time import monotonic_ns

from bench.beater import Beater
from bench.engine import Engine
from bench.opening import close_all, numbers_of, open_all
from bench.pacing import OpenLoop, everybody_once
from bench.plan import Window


class Heartbeat:
    """Signed-in clients of which a share sends heartbeats."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        load = engine.plan.load
        answered = self._go_on if load.rate is None else self._answered
        self._users = [
            Beater(engine, number, engine.room(number % load.rooms), answered)
            for number in numbers_of(engine)
        ]
        self._active = [user for user in self._users if user.number < load.taking_part]
        self._latency = engine.span("latency")
        self._units = 0
        self._window = Window(0, 0, 0)

    async def prepare(self) -> None:
        await open_all(self._engine, self._users)
        self._engine.counts["connections"] = self._engine.signed_in

    async def run(self, window: Window) -> None:
        self._window = window
        engine, load = self._engine, self._engine.plan.load
        pace = everybody_once(self._active)
        if load.rate is not None:
            part = load.rate * len(self._active) / load.taking_part
            pace = OpenLoop(engine, self._active, part, window.start_ns).pace
        await engine.measure(pace, window, engine.is_answered)
        engine.counts["units"] = self._units
        engine.counts["unanswered"] = engine.unanswered

    async def finish(self) -> None:
        await close_all(self._engine, self._users)

    def progress(self) -> int:
        return self._units

    def _answered(self, _: Beater, due_ns: int, now: int) -> None:
        # A rate is of what was done while the server's CPU was counted; a latency is of what was due then.
        if self._window.has(now):
            self._units += 1
        if self._window.has(due_ns):
            self._latency.record(now - due_ns)

    def _go_on(self, user: Beater, due_ns: int, now: int) -> None:
        if self._window.has(now):
            self._units += 1
            self._latency.record(now - due_ns)
        if now < self._window.end_ns:
            user.act(monotonic_ns())
