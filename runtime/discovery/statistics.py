"""What discovery tells about itself: plain numbers, and why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DiscoveryStatistics:
    """What one process has announced and knows, and how that went.

    Attributes:
        announced: (service, address) of what is meant to be announced -> whether it is.
        peers: service -> addresses known now.
        missing: of those, no longer listed and kept for a while, now.
        lists: lists that were read, each followed by a watch.
        changes: puts and deletes that were told by a watch.
        announcements: keys put with a new lease: the first, and whenever a lease was lost.
        restored: keys put again under a lease that had lost them.
        skipped: keys with something unreadable, each time it is seen: `key` has no address at all, `value`
            was taken from the key.
        failures: questions to one endpoint without a usable answer and watches that were lost, by reason.
    """

    announced: dict[tuple[str, str], bool] = field(
        default_factory=dict, metadata={"labels": ("service", "address")}
    )
    peers: dict[str, int] = field(default_factory=dict, metadata={"labels": ("service",)})
    missing: int = 0
    lists: int = 0
    changes: int = 0
    announcements: int = 0
    restored: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
