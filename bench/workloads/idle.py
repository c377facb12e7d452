"""Idle clients: signed in, and then silent.  The server is measured: memory each, and CPU per sign-in.

counts  connections: signed in at the end of opening; units: still there at the end
spans   open: connect -> signed in
"""

from __future__ import annotations

from bench.engine import Engine
from bench.opening import close_all, numbers_of, open_all
from bench.plan import Window
from bench.poller import no_pace
from bench.user import User


class Idle:
    """Clients that do nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        rooms = engine.plan.load.rooms
        self._users = [User(engine, number, engine.room(number % rooms)) for number in numbers_of(engine)]

    async def prepare(self) -> None:
        await open_all(self._engine, self._users)
        self._engine.counts["connections"] = self._engine.signed_in

    async def run(self, window: Window) -> None:
        await self._engine.measure(no_pace, window, lambda: True)
        self._engine.counts["units"] = self._engine.signed_in

    async def finish(self) -> None:
        await close_all(self._engine, self._users)

    def progress(self) -> int:
        return self._engine.signed_in
