"""Counters behind `DiscoveryStatistics`.  Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What all announcements and watches of one discovery have done; the names are the statistics'."""

    lists: int = 0
    changes: int = 0
    announcements: int = 0
    restored: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
