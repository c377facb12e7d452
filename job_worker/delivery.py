"""From a batch to every conn server: one lane each, with calls that are tried again.

    feed -- wait_space, hand_over --> Lanes --> lane (pure) --> call --> ConnServer
                                                            |  Unavailable, too late: a pause, and again
                                                            '  Refused: never

Why calls of several rooms are under way at once is rule 1 of lane.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import random
from typing import Final, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from job_worker.handover import Handover
from job_worker.lane import Held, Lane, Tally
from job_worker.settings import Lane as LaneSettings
from schema.access import Refused, Unavailable
from schema.message import Push

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
FAIR: Final = 8
"""Batches that are handed over, while there is much space, between two turns for others."""
CHECK_INTERVAL_S: Final = 0.25
"""How often lanes look at the time: a call ends, and a conn server is detached, at most this much late."""
LONGEST_TICK_S: Final = 4 * CHECK_INTERVAL_S
"""Between two such looks; what is more is the time of a process that stood still."""


class ConnServer(Protocol):
    """One conn server, as a lane needs it.  Batches of one room come one after the other."""

    async def broadcast(self, pushes: Sequence[Push]) -> Sequence[Refused | None]:
        """Put `pushes`, of one room, into the outboxes of its members, one after the other.

        Returns:
            Of the first ones, one at least, in order: None once it is done, Refused if it never will be.  It
            is asked again for the rest.

        Raises:
            Unavailable: it may not have got them; it is asked again.
        """


@dataclass(frozen=True, slots=True)
class DeliveryStatistics:
    """The lanes that there are now, and what lanes have done since the start.

    Attributes:
        lanes: conn servers; nobody waits for `detached_lanes` and `behind_lanes` of them, which do not answer
            or are too late, and `slow_lanes` drop instead of waiting.
        held: batches waiting and under way, on all lanes; `held_bytes` of them.
        batches: handed over by feeds.
        answered: messages that a conn server has taken, counted for each.
        retried: calls that were repeated.
        detached: how often a lane was detached.
        dropped_normal: messages that a conn server did not get, counted for each, by reason.
        dropped_important: the same of IMPORTANT ones.  If no conn server at all has got them they are not
            lost: the queue has them.
    """

    lanes: int
    detached_lanes: int
    slow_lanes: int
    behind_lanes: int
    held: int
    held_bytes: int
    batches: int
    answered: int
    retried: int
    detached: int
    dropped_normal: Mapping[str, int]
    dropped_important: Mapping[str, int]


class _AwakeTime:
    """Trio's time without that in which this process stood still: no conn server is to blame for it.

    A worker that was stopped for 10 s, or a machine that slept, would else take all conn servers for dead
    before it reads the answers that are there.
    """

    def __init__(self) -> None:
        self._ticked_at = inf
        self._lost_s = 0.0

    def now(self) -> float:
        """Return the time; at most `LONGEST_TICK_S` after the last tick."""
        return min(trio.current_time(), self._ticked_at + LONGEST_TICK_S) - self._lost_s

    def tick(self) -> None:
        """Go on; to be called every `CHECK_INTERVAL_S`."""
        now = self.now()
        self._ticked_at = trio.current_time()
        self._lost_s = self._ticked_at - now


class _Opened:
    """A lane, the callers that work on it, and when each of their calls is over."""

    def __init__(self, name: str, lane: Lane) -> None:
        self.name = name
        self.lane = lane
        self.idle = trio.lowlevel.ParkingLot()
        self.calls: dict[trio.CancelScope, float] = {}

    def end_calls(self, now: float) -> None:
        """End what is not answered in time."""
        for scope, deadline in self.calls.items():
            if deadline <= now:
                scope.cancel()


class Lanes:
    """All conn servers of one worker.  Owned by the worker; each lane lives as long as its `run_lane`.

    Args:
        settings: bounds and deadlines.
        log: told when a conn server is detached and attached again.
        on_presence: called when the first lane is there (True) and when there is none any more (False).
        jitter: 0 <= number < 1, for the pauses.
    """

    def __init__(
        self,
        settings: LaneSettings,
        log: FilteringBoundLogger,
        *,
        on_presence: Callable[[bool], None] = lambda _: None,
        jitter: Callable[[], float] = random,
    ) -> None:
        self._settings = settings
        self._log = log
        self._on_presence = on_presence
        self._jitter = jitter
        self._lanes: dict[str, _Opened] = {}
        self._tally = Tally()
        self._space = trio.lowlevel.ParkingLot()
        self._time = _AwakeTime()

    @property
    def is_present(self) -> bool:
        """Whether there is any."""
        return bool(self._lanes)

    async def run_lane(
        self, name: str, server: ConnServer, *, task_status: trio.TaskStatus[Lane] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Deliver to `server` until cancelled; what is not over then is settled as gone, and counted.

        Args:
            name: its address; one lane for each.
            server: owned by the caller, who closes it afterwards.
            task_status: gets the lane, for its statistics.
        """
        if name in self._lanes:
            raise ValueError(f"there is a lane for {name} already")
        opened = self._lanes[name] = _Opened(name, Lane(self._settings, self._tally))
        try:
            if len(self._lanes) == 1:
                self._on_presence(True)  # noqa: FBT003
            async with trio.open_nursery() as callers:
                for _ in range(self._settings.concurrency):
                    callers.start_soon(self._work, opened, server)
                task_status.started(opened.lane)
        finally:
            # No await: a batch is offered to this lane and settled by it, or not offered.
            del self._lanes[name]
            if not self._lanes:
                self._on_presence(False)  # noqa: FBT003
            opened.lane.close()
            self._space.unpark_all()

    async def run_clock(self) -> None:
        """Tell the lanes the time, until cancelled."""
        while True:
            self._time.tick()
            await trio.sleep(CHECK_INTERVAL_S)
            for opened in list(self._lanes.values()):
                was_detached = opened.lane.is_detached
                opened.end_calls(self._time.now())
                opened.lane.check(self._time.now())
                if opened.lane.is_detached and not was_detached:
                    self._log.warning("conn server detached: no answer", address=opened.name)
                    self._space.unpark_all()

    # -- the feeds' side

    async def wait_space(self) -> None:
        """Wait while a lane is full and turns over; within `patience_s` for one that does not answer.

        Another feed may have taken the space that ends the wait; this one then goes on waiting.
        """
        # Feeds take turns: one that has much would else take all the space.  While there is plenty they do so
        # now and then, since a turn of the loop costs as much as handing over a batch.
        if all(opened.lane.is_half_empty for opened in self._lanes.values()) and self._tally.batches % FAIR:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while (until := self._space_at(now := self._time.now())) > now:
            with trio.move_on_after(until - now):
                await self._space.park()

    def _space_at(self, now: float) -> float:
        return max((opened.lane.wait_until(now) for opened in self._lanes.values()), default=now)

    def hand_over(self, push: Push, done: Callable[[bool], None]) -> None:
        """Offer `push` to all lanes; `done` is told once whether anybody has, or need not have, got it."""
        self._tally.batches += 1
        now = self._time.now()
        handover = Handover(len(self._lanes), done)
        for opened in list(self._lanes.values()):
            opened.lane.offer(push, handover, now)
            if opened.lane.has_ready:
                opened.idle.unpark()

    # -- the conn servers' side

    async def _work(self, opened: _Opened, server: ConnServer) -> None:
        while True:
            burst = opened.lane.take(self._time.now())
            if burst:
                await self._deliver(opened, server, burst)
                if opened.lane.take_relief():
                    self._space.unpark_all()
            else:
                await opened.idle.park()

    async def _deliver(self, opened: _Opened, server: ConnServer, burst: list[Held]) -> None:
        """Call until the burst is over, or has gone back to the lane."""
        lane = opened.lane
        longest_s = FIRST_PAUSE_S
        while burst:
            # Not Trio's deadline: it would pass while this process stands still, and the batch be sent again
            # though its answer is there to be read.
            call = trio.CancelScope()
            opened.calls[call] = self._time.now() + self._settings.call_timeout_s
            outcomes: Sequence[Refused | None] = ()
            try:
                with call:
                    outcomes = await server.broadcast([held.push for held in burst])
            except Unavailable:
                pass
            finally:
                del opened.calls[call]
            if outcomes:
                self._settle(opened, burst, outcomes)
                return
            now = self._time.now()
            burst = [held for held in burst if lane.failed(held, now)]
            if burst:
                await trio.sleep(longest_s * (1 + self._jitter()) / 2)
                longest_s = min(2 * longest_s, LONGEST_PAUSE_S)
                self._tally.retried += 1

    def _settle(self, opened: _Opened, burst: Sequence[Held], outcomes: Sequence[Refused | None]) -> None:
        if opened.lane.is_detached:
            self._log.info("conn server answers again", address=opened.name)
        now, tried = self._time.now(), len(outcomes)
        opened.lane.untried(burst[tried:])
        for held, refusal in zip(burst[:tried], outcomes, strict=True):
            if refusal is None:
                opened.lane.answered(held, now)
            else:
                self._log.error("conn server refuses a batch", address=opened.name, text=refusal.text)
                opened.lane.refused(held, now)

    def statistics(self) -> DeliveryStatistics:
        """Return what there is now and was so far."""
        lanes = [opened.lane.statistics() for opened in self._lanes.values()]
        tally = self._tally
        return DeliveryStatistics(
            lanes=len(lanes),
            detached_lanes=sum(lane.detached for lane in lanes),
            slow_lanes=sum(lane.slow for lane in lanes),
            behind_lanes=sum(lane.behind for lane in lanes),
            held=sum(lane.batches for lane in lanes),
            held_bytes=sum(lane.held_bytes for lane in lanes),
            batches=tally.batches,
            answered=tally.answered,
            retried=tally.retried,
            detached=tally.detached,
            dropped_normal=dict(tally.dropped_normal),
            dropped_important=dict(tally.dropped_important),
        )
