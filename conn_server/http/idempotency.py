"""Which requests with an `Idempotency-Key` are under way, and which were answered lately.  Pure.

Rules
1. A key is a caller's: the same text from two callers is two keys.  Stored is a digest of both.
2. The first request with a key runs; others with it wait for that one, and run if it failed.
3. A success is remembered for the window and answered again; a failure is not remembered.
4. Over the limit the oldest success is forgotten before its time, and counted: a caller with very many keys
   shortens the window of all, but shuts nobody out.  What is under way is bounded by the connections.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

RunT = TypeVar("RunT")
AnswerT = TypeVar("AnswerT")


def digest_of(caller: str, key: str) -> bytes:
    """Return what a caller's key is known by here."""
    caller_bytes = caller.encode(errors="surrogateescape")
    size = len(caller_bytes).to_bytes(8, "big")
    return blake2b(size + caller_bytes + key.encode(errors="surrogateescape"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class ReplayStatistics:
    """Keys under way and remembered now; since the start: answered again, and forgotten before their time."""

    running: int
    remembered: int
    replayed: int
    forgotten_early: int


class ReplayWindow(Generic[RunT, AnswerT]):
    """The keys of one node.  Owned by its routes.

    Args:
        window_s: how long a success is remembered.
        max_keys: successes that are remembered at most.
    """

    def __init__(self, window_s: float, max_keys: int) -> None:
        self._window_s = window_s
        self._max_keys = max_keys
        self._running: dict[bytes, RunT] = {}
        self._succeeded: OrderedDict[bytes, tuple[float, AnswerT]] = OrderedDict()  # the oldest first
        self._replayed = self._forgotten_early = 0

    def replay(self, digest: bytes, now: float) -> AnswerT | None:
        """Return the answer of a success within the window."""
        self._forget_expired(now)
        found = self._succeeded.get(digest)
        if found is None:
            return None
        self._replayed += 1
        return found[1]

    def running(self, digest: bytes) -> RunT | None:
        """Return what `start` was given, if a request with this key is under way."""
        return self._running.get(digest)

    def start(self, digest: bytes, run: RunT) -> None:
        """Note that a request is under way; no other may be."""
        self._running[digest] = run

    def finish(self, digest: bytes, answer: AnswerT | None, now: float) -> None:
        """Note that the request has ended, with `answer` if that is to be remembered."""
        del self._running[digest]
        if answer is None:
            return
        if len(self._succeeded) >= self._max_keys:
            self._forget_expired(now)
        if len(self._succeeded) >= self._max_keys:
            self._succeeded.popitem(last=False)
            self._forgotten_early += 1
        self._succeeded[digest] = (now, answer)

    def statistics(self) -> ReplayStatistics:
        """Return what there is now and was so far."""
        return ReplayStatistics(
            len(self._running), len(self._succeeded), self._replayed, self._forgotten_early
        )

    def _forget_expired(self, now: float) -> None:
        while self._succeeded:
            succeeded_at, _ = next(iter(self._succeeded.values()))
            if now - succeeded_at < self._window_s:
                return
            self._succeeded.popitem(last=False)
