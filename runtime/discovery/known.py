"""The servers of one service, from what etcd lists and tells.  Pure: `now` is an argument.

1. A delete that a watch tells holds at once: the server has left, or its lease has run out.
2. What is missing from a list was perhaps forgotten by etcd (a wiped disk, a restored backup) and will
   announce itself again: it is kept for `grace_s`.
3. Nothing is dropped while etcd does not answer, and the grace does not run on meanwhile: who could not
   announce itself has not had its time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import inf

from runtime.discovery.answers import Change
from runtime.discovery.entries import read_entry


class KnownPeers:
    """The servers under one prefix.  Owned by whoever follows them.

    Attributes:
        addresses: of all that are known, the missing ones included.
    """

    def __init__(self, prefix: bytes, *, grace_s: float, skipped: Counter[str]) -> None:
        """Know nobody yet; what is unreadable in keys and values is counted in `skipped`."""
        self.addresses: frozenset[str] = frozenset()
        self._skipped = skipped
        self._prefix = prefix
        self._grace_s = grace_s
        self._listed: dict[bytes, str] = {}
        self._missing: dict[bytes, tuple[str, float]] = {}  # with when it will be dropped
        self._silent_since: float | None = None

    @property
    def missing(self) -> int:
        """How many are kept although they are not listed."""
        return len(self._missing)

    @property
    def due(self) -> float:
        """When `drop_due` has something to do; infinite for nothing, and while etcd does not answer."""
        if self._silent_since is not None:
            return inf
        return min((deadline for _, deadline in self._missing.values()), default=inf)

    def listed(self, entries: Mapping[bytes, bytes], now: float) -> None:
        """Take a whole list."""
        silent_s = 0.0 if self._silent_since is None else now - self._silent_since
        self._silent_since = None
        before = self._listed
        self._listed = {}
        missing = {key: (address, deadline + silent_s) for key, (address, deadline) in self._missing.items()}
        missing |= {key: (address, now + self._grace_s) for key, address in before.items()}
        for key, value in entries.items():
            self._put(key, value)
        self._missing = {key: kept for key, kept in missing.items() if key not in entries}
        self.drop_due(now)

    def changed(self, changes: Iterable[Change]) -> None:
        """Take what a watch has told."""
        for change in changes:
            self._listed.pop(change.key, None)
            self._missing.pop(change.key, None)
            if change.value is not None:
                self._put(change.key, change.value)
        self._refresh()

    def silent(self, now: float) -> None:
        """Note that etcd does not answer; until it lists again everything stays."""
        if self._silent_since is None:
            self._silent_since = now

    def drop_due(self, now: float) -> None:
        """Drop those whose grace is over."""
        if self._silent_since is None:
            self._missing = {key: kept for key, kept in self._missing.items() if kept[1] > now}
        self._refresh()

    def _put(self, key: bytes, value: bytes) -> None:
        address, unreadable = read_entry(self._prefix, key, value)
        if unreadable is not None:
            self._skipped[unreadable] += 1
        if address is not None:
            self._listed[key] = address

    def _refresh(self) -> None:
        self.addresses = frozenset(self._listed.values()).union(
            address for address, _ in self._missing.values()
        )
