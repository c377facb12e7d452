"""The processes of the server, looked at now and then during one run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from bench.procstat import Gone, Usage, files_of, usage_of


class Watched:
    """What the processes named by `--pid` have used; owned by the run, which does the looking.

    A server that ends under its load must not take with it what was seen until then: from its end on, the
    last look is repeated.

    Attributes:
        pids: who is looked at; nobody uses nothing.
        gone: what is wrong, once one of them has ended; empty before.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = tuple(pids)
        self.gone = ""
        self._looks: list[Usage] = []

    def look(self) -> Usage:
        """Return what they have used until now.

        Raises:
            Gone: one of them is not there, at the first look.
        """
        if not self.gone:
            try:
                self._looks.append(usage_of(self.pids))
            except Gone as exc:
                if not self._looks:
                    raise
                self.gone = str(exc)
        last = self._looks[-1]
        return replace(last, at_ns=time.monotonic_ns()) if self.gone else last

    def since(self, time_ns: int) -> Usage:
        """Return the first look that was taken at a time or after it; the last one if there is none."""
        return next((usage for usage in self._looks if usage.at_ns >= time_ns), self._looks[-1])

    def files(self) -> list[int]:
        """Return how many files each has open; 0 for one that has ended."""
        counts = []
        for pid in self.pids:
            try:
                counts.append(files_of(pid))
            except Gone:
                counts.append(0)
        return counts
