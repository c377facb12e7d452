"""Cyclic garbage without long pauses: what has survived once is not looked at again.

A full collection of CPython's looks at every object there is: 60-100 ms with 10 000 clients, in which
nobody is served (docs/performance.md).  Ours die by their reference counts, cycles are broken where they
are made, so that looking at them again and again finds nothing.  Therefore

1. what is there when the service begins to run is frozen (`gc.freeze`): modules, settings, classes;
2. what survives a collection of the middle generation is frozen as well, so that no collection looks at
   more than some thousand objects;
3. every `FULL_INTERVAL_S` all of it is looked at once after all, for the sake of cycles that were made of
   old objects: a pause, but a rare one, and it is counted.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import trio

FULL_INTERVAL_S: Final = 1800.0
THRESHOLDS: Final = (700, 3, 10)
"""A middle collection after 2100 objects more than went: about 0.5 ms."""


@dataclass(frozen=True, slots=True)
class GarbageStatistics:
    """Objects that are frozen now; full collections, and what they found, since the start."""

    frozen: int
    full: int
    found: int


class Garbage:
    """The policy of a process, while its context is entered.  Owned by `run_service`."""

    def __init__(self) -> None:
        self._thresholds = gc.get_threshold()
        self._full = self._found = 0

    def __enter__(self) -> Garbage:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.callbacks.append(self._collected)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.callbacks.remove(self._collected)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def collect(self) -> None:
        """Look at all objects, which takes some microseconds for each hundred, and freeze what is left."""
        gc.unfreeze()
        self._found += gc.collect()
        self._full += 1

    async def run(self) -> None:
        """Look at all objects every `FULL_INTERVAL_S`, until cancelled."""
        while True:
            await trio.sleep(FULL_INTERVAL_S)
            self.collect()

    def statistics(self) -> GarbageStatistics:
        """Return what there is now and was so far."""
        return GarbageStatistics(gc.get_freeze_count(), self._full, self._found)

    def _collected(self, phase: str, about: Mapping[str, int]) -> None:
        if phase == "stop" and about["generation"] > 0:
            gc.freeze()
