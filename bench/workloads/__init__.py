"""The loads, one module each: what a generator process does with its part of a plan."""

from __future__ import annotations

from typing import Protocol

from bench.plan import Window


class Workload(Protocol):
    """One load in one generator process.  Made with the engine, which it drives."""

    async def prepare(self) -> None:
        """Open what is there before the load begins."""

    async def run(self, window: Window) -> None:
        """Carry the load through the window, and wait for its last answers."""

    async def finish(self) -> None:
        """Take leave of the server."""

    def progress(self) -> int:
        """Return how many units are done so far."""
