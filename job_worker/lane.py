"""What waits for one conn server: bounded, in order, and for how long.  Pure.

Rules
1. A room's batches leave in the order in which they were offered, when those before are over.  Batches
   of different rooms are under way at the same time: one call after the other would make a busy conn server's
   round trip the limit of all rooms, and only a room's order is promised.  What has gathered meanwhile leaves
   together, as a burst: a conn server that is behind gets more with each call, and catches up.
2. Over `max_batches` or `max_bytes` the oldest waiting NORMAL is dropped; IMPORTANT stays.
3. A lane that is full is no reason to drop as long as it turns over what it holds within `patience_s`: until
   then whoever offers is asked to wait (`wait_until`), and with it the queue.  A slower lane drops from then
   on, and nobody waits for it, until half of it is free.
4. A lane that holds batches and has had no answer for `detach_after_s` is detached and holds nobody up: its
   NORMAL is dropped, its IMPORTANT is kept, and one NORMAL at a time is tried when there is nothing else to
   try.  An answer attaches it again.
5. A NORMAL whose burst is tried for `detach_after_s` is given up even if the lane is alive; IMPORTANT is
   given up `window_s` after it was offered.
6. A lane that answers, but holds a batch that was offered `detach_after_s` ago, is behind: what it holds and
   what is offered to it holds nobody up any more.  Nobody would else be served faster than it, once all that
   may be on loan from the queue waits for it.
7. A lane that nobody waits for (4, 6) keeps `max_bytes`, the newest, of what the queue has no more; the rest
   is on loan, which is its bound, and would only come again later.
8. Each batch is settled with its handover exactly once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from job_worker.handover import Handover, Outcome
from job_worker.settings import Lane as LaneSettings
from schema.message import Level, Push

BOOKKEEPING_BYTES = 512
"""What a held batch costs beside its body."""
BURST_BATCHES = 16
BURST_BYTES = 16 * 1024
"""Of the bodies of one burst; a batch that is larger itself leaves alone."""


@dataclass(slots=True)
class Tally:
    """What lanes have done since the start, those that have ended included; messages unless said."""

    batches: int = 0
    answered: int = 0
    retried: int = 0
    detached: int = 0
    dropped_normal: Counter[str] = field(default_factory=Counter)
    dropped_important: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """What one lane holds now, and whether it is detached or slow.

    Attributes:
        batches: waiting and under way.
        held_bytes: of them, bookkeeping included.
        answered: batches, since the lane was opened.
        detached: nobody waits for it.
        slow: it drops NORMAL instead of asking to wait.
        behind: it answers, but nobody waits for it.
    """

    batches: int
    held_bytes: int
    answered: int
    detached: bool
    slow: bool
    behind: bool


class Held:
    """One batch in one lane.  Owned by the lane until it is over."""

    __slots__ = ("called_at", "handover", "is_kept", "push", "since", "size_bytes")

    def __init__(self, push: Push, handover: Handover, now: float) -> None:
        self.push = push
        self.handover = handover
        self.size_bytes = len(push.body) + BOOKKEEPING_BYTES
        self.since = now
        self.called_at: float | None = None
        self.is_kept = False

    def keep(self) -> None:
        """Let go whoever waits."""
        if not self.is_kept:
            self.is_kept = True
            self.handover.keep()


@dataclass(slots=True)
class _Busy:
    """A room with a burst under way: what waits behind it, and how many batches of it are not over."""

    rest: deque[Held]
    under_way: int


class Lane:
    """The batches for one conn server.  Owned by `Lanes`; `close` settles what is left.

    Attributes:
        is_detached: rule 4.
        is_behind: rule 6.
    """

    def __init__(self, settings: LaneSettings, tally: Tally) -> None:
        self._settings = settings
        self._tally = tally
        self._held: OrderedDict[Held, None] = OrderedDict()
        self._held_bytes = 0
        # A room is in one of them: batches that may leave, or the rest behind the one under way.
        self._ready: OrderedDict[str, deque[Held]] = OrderedDict()
        self._busy: dict[str, _Busy] = {}
        self._droppable: OrderedDict[Held, None] = OrderedDict()
        self._unanswered_since = inf
        self._answered = 0
        self.is_detached = False
        self.is_behind = False
        self._is_slow = False
        self._patience_ends = inf
        self._must_answer = 0
        self._has_relief = False

    # -- offering

    def wait_until(self, now: float) -> float:
        """Return until when to wait before offering, `now` or earlier for not at all (rule 3)."""
        if self._is_slow or self.is_detached or not self._is_full():
            return now
        if self._patience_ends == inf or (now >= self._patience_ends and self._answered >= self._must_answer):
            self._patience_ends = now + self._settings.patience_s
            self._must_answer = self._answered + len(self._held)
        elif now >= self._patience_ends:
            self._is_slow = True
            return now
        return self._patience_ends

    def offer(self, push: Push, handover: Handover, now: float) -> None:
        """Take a batch; it, or older ones, may be dropped for want of room (rules 2, 4, 7)."""
        held = Held(push, handover, now)
        if not self._held:
            self._unanswered_since = now
        elif self.is_detached and push.level is Level.NORMAL:
            self._count_drop(held, "detached")
            handover.settle(Outcome.DROPPED, is_kept=False)
            return
        self._held[held] = None
        self._held_bytes += held.size_bytes
        self._queue_of(push.room).append(held)
        if push.level is Level.NORMAL:
            self._droppable[held] = None
        if self.is_detached or self.is_behind:
            held.keep()
        self._shrink()

    def _shrink(self) -> None:
        limits = self._settings
        while self._droppable and (
            len(self._held) > limits.max_batches or self._held_bytes > limits.max_bytes
        ):
            self._drop(next(iter(self._droppable)), "full")
        if (self.is_detached or self.is_behind) and self._held_bytes > limits.max_bytes:
            for held in list(self._held):
                if self._held_bytes <= limits.max_bytes:
                    break
                if held.called_at is None and held.handover.is_decided:
                    self._drop(held, "full")

    # -- calling

    @property
    def has_ready(self) -> bool:
        """Whether `take` would give a batch."""
        return bool(self._ready)

    def take(self, now: float) -> list[Held]:
        """Return the next burst to call with, of one room, in order; empty for none.  Rooms take turns."""
        if not self._ready:
            return []
        room, queue = self._ready.popitem(last=False)
        burst = [queue.popleft()]
        if not self.is_detached:  # one is enough to try it with
            left_bytes = BURST_BYTES - len(burst[0].push.body)
            while queue and len(burst) < BURST_BATCHES:
                left_bytes -= len(queue[0].push.body)
                if left_bytes < 0:
                    break
                burst.append(queue.popleft())
        self._busy[room] = _Busy(queue, len(burst))
        for held in burst:
            self._droppable.pop(held, None)
            held.called_at = now
        return burst

    def answered(self, held: Held, now: float) -> None:
        """Note that the conn server has taken a batch."""
        self._note_answer(now)
        self._tally.answered += _messages(held)
        self._end(held, Outcome.ANSWERED)

    def refused(self, held: Held, now: float) -> None:
        """Note that the conn server will never take a batch; it is alive, though."""
        self._note_answer(now)
        self._count_drop(held, "refused")
        self._end(held, Outcome.DROPPED)

    def failed(self, held: Held, now: float) -> bool:
        """Note that a call had no answer, and say whether to try again."""
        assert held.called_at is not None  # noqa: S101  given out by `take`
        if held.push.level is Level.IMPORTANT:
            reason = "window" if now - held.since >= self._settings.window_s else ""
        elif self.is_detached:
            reason = "detached"
        else:
            reason = "late" if now - held.called_at >= self._settings.detach_after_s else ""
        if reason:
            self._drop(held, reason)
        return not reason

    def untried(self, rest: Sequence[Held]) -> None:
        """Take back the end of a burst whose beginning is about to be settled."""
        for held in reversed(rest):
            busy = self._busy[held.push.room]
            busy.under_way -= 1
            busy.rest.appendleft(held)
            held.called_at = None
            if held.push.level is Level.NORMAL:
                self._droppable[held] = None
                self._droppable.move_to_end(held, last=False)

    def _note_answer(self, now: float) -> None:
        self._answered += 1
        self._unanswered_since = now
        self.is_detached = False

    # -- time

    def check(self, now: float) -> None:
        """Apply what only time brings about (rules 4 to 6); to be called every now and then."""
        if self._held and now - self._unanswered_since >= self._settings.detach_after_s:
            self._detach()
        oldest = next(iter(self._held), None)
        self.is_behind = oldest is not None and now - oldest.since >= self._settings.detach_after_s
        if self.is_behind:
            for held in self._held:
                held.keep()
            self._shrink()
        for held in list(self._held):
            if now - held.since < self._settings.window_s:
                break
            if held.called_at is None:
                self._drop(held, "window")

    def _detach(self) -> None:
        if not self.is_detached:
            self.is_detached = True
            self._tally.detached += 1
            for held in list(self._held):
                if held in self._droppable:
                    self._drop(held, "detached")
                else:
                    held.keep()

    # -- the end of a batch

    def close(self) -> None:
        """Settle everything: the conn server is gone, or we are."""
        for held in list(self._held):
            self._drop(held, "gone")

    def _drop(self, held: Held, reason: str) -> None:
        self._count_drop(held, reason)
        is_meant = held.push.level is Level.NORMAL and reason != "gone"
        self._end(held, Outcome.DROPPED if is_meant else Outcome.GONE)

    def _count_drop(self, held: Held, reason: str) -> None:
        is_normal = held.push.level is Level.NORMAL
        dropped = self._tally.dropped_normal if is_normal else self._tally.dropped_important
        dropped[reason] += _messages(held)

    def _end(self, held: Held, outcome: Outcome) -> None:
        del self._held[held]
        self._held_bytes -= held.size_bytes
        self._droppable.pop(held, None)
        room = held.push.room
        if held.called_at is None:
            queue = self._queue_of(room)
            queue.remove(held)
            if not queue:
                self._ready.pop(room, None)
        else:
            busy = self._busy[room]
            busy.under_way -= 1
            if not busy.under_way:
                del self._busy[room]
                if busy.rest:
                    self._ready[room] = busy.rest
        if self.is_half_empty:
            self._has_relief = self._has_relief or self._patience_ends < inf
            self._patience_ends = inf
            self._is_slow = False
        held.handover.settle(outcome, is_kept=held.is_kept)

    def _queue_of(self, room: str) -> deque[Held]:
        busy = self._busy.get(room)
        return self._ready.setdefault(room, deque()) if busy is None else busy.rest

    @property
    def is_half_empty(self) -> bool:
        """Whether half of it, or more, is free."""
        limits = self._settings
        return 2 * len(self._held) <= limits.max_batches and 2 * self._held_bytes <= limits.max_bytes

    def _is_full(self) -> bool:
        return len(self._held) >= self._settings.max_batches or self._held_bytes >= self._settings.max_bytes

    def take_relief(self) -> bool:
        """Say, once each time, that half of a lane is free that had asked to wait."""
        has_relief, self._has_relief = self._has_relief, False
        return has_relief

    def statistics(self) -> LaneStatistics:
        """Return what it holds now."""
        return LaneStatistics(
            len(self._held), self._held_bytes, self._answered, self.is_detached, self._is_slow, self.is_behind
        )


def _messages(held: Held) -> int:
    return len(held.push.items)
