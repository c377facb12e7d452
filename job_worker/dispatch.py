"""From a message to the feed of its room: opened by the first one, gone when the room is quiet.

Beyond `max_rooms` the feed that has had nothing for longest ends early: whoever names many rooms, which costs
nothing, must not hold up those that talk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from job_worker.feed import Feed, Outlet
from job_worker.merge import Record
from job_worker.settings import Room as RoomSettings

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class DispatchStatistics:
    """Feeds there are now, and were opened; messages dispatched, and how often one had to wait, by reason."""

    feeds: int
    opened: int
    dispatched: int
    waits: dict[str, int]


class Dispatch(Generic[R]):
    """The feeds of one worker.  Owned by it.

    Args:
        settings: of a feed, and how many there may be.
        outlet: for batches.
        settle: called with the records of a batch and whether it was handed to anybody.
        feeds: the nursery in which feeds run; it must outlive this object.
    """

    def __init__(
        self,
        settings: RoomSettings,
        outlet: Outlet,
        settle: Callable[[Sequence[R], bool], None],
        feeds: trio.Nursery,
    ) -> None:
        self._settings = settings
        self._outlet = outlet
        self._settle = settle
        self._nursery = feeds
        self._feeds: OrderedDict[str, Feed[R]] = OrderedDict()  # the one that was used last at the end
        self._feed_ended = trio.lowlevel.ParkingLot()
        self._opened = 0
        self._dispatched = 0
        self._waits = {"feed full": 0, "rooms": 0}

    async def put(self, record: R) -> None:
        """Give a message to its room's feed.

        Waits while that feed is full, or until another has flushed and ended if there are `max_rooms`.  No
        checkpoint if it need not wait.  Cancelled, the message has not been given to anybody.
        """
        room = record.message.room
        feed = self._feed_of(room)
        while feed is None:
            self._waits["rooms"] += 1
            await self._feed_ended.park()
            feed = self._feed_of(room)
        self._feeds.move_to_end(room)
        try:
            feed.put_nowait(record)
        except trio.WouldBlock:
            self._waits["feed full"] += 1
            # It cannot end meanwhile: an ending feed has found nobody waiting here.
            await feed.put(record)
        self._dispatched += 1

    def _feed_of(self, room: str) -> Feed[R] | None:
        """Return the room's feed; None if another one has to end first, which has been told so."""
        feed = self._feeds.get(room)
        if feed is None:
            if len(self._feeds) >= self._settings.max_rooms:
                next(iter(self._feeds.values())).finish()
                return None
            feed = self._feeds[room] = Feed(room, self._settings, self._outlet, self._settle)
            self._nursery.start_soon(feed.run, self._ended, name="feed")
            self._opened += 1
        return feed

    def _ended(self, feed: Feed[R]) -> None:
        del self._feeds[feed.room]
        self._feed_ended.unpark_all()

    async def drain(self) -> None:
        """Let all feeds flush and end, and wait for it.  Nothing may be put any more."""
        for feed in list(self._feeds.values()):
            feed.finish()
        while self._feeds:
            await self._feed_ended.park()

    def statistics(self) -> DispatchStatistics:
        """Return what there is now and was so far."""
        return DispatchStatistics(len(self._feeds), self._opened, self._dispatched, dict(self._waits))
