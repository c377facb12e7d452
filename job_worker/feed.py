"""One room: a memory channel in, merged batches out, and the task between them.

A feed needs no sentinel and no timer thread: `receive()` under a deadline loses nothing, since Trio's memory
channels are atomic under cancellation.

Once a batch has begun, its feed sleeps until the batch is due, or until what has gathered in the channel
would fill it or is IMPORTANT: one wake-up per batch, not per message (measured: half the cost of a message).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import trio

from job_worker.merge import Record, RoomBatch, push_of
from job_worker.settings import Room as RoomSettings
from schema.message import Level, Push

R = TypeVar("R", bound=Record)


class Outlet(Protocol):
    """Where batches go: all conn servers."""

    async def wait_space(self) -> None:
        """Wait, for a bounded time, until a batch can be handed over without anything being dropped."""

    def hand_over(self, push: Push, done: Callable[[bool], None]) -> None:
        """Take `push`; call `done` once with whether it was handed to anybody."""


class Feed(Generic[R]):
    """The messages of one room on their way through this worker.  Owned by the dispatch.

    Args:
        room: its name.
        settings: how it merges, and when it ends.
        outlet: for batches.
        settle: called with the records of a batch and whether it was handed to anybody.
    """

    def __init__(
        self,
        room: str,
        settings: RoomSettings,
        outlet: Outlet,
        settle: Callable[[Sequence[R], bool], None],
    ) -> None:
        self.room = room
        self._settings = settings
        self._outlet = outlet
        self._settle = settle
        self._batch = RoomBatch[R](settings.batch, settings.max_bytes, settings.signal_s)
        # Records with the time at which they came.
        self._send, self._receive = trio.open_memory_channel[tuple[float, R]](settings.feed_messages)
        self._is_finishing = False
        self._idle = trio.CancelScope()  # of the wait for a first record
        self._asleep = trio.lowlevel.ParkingLot()
        # What must come until the sleeper is woken.
        self._missing = self._missing_bytes = 0

    def put_nowait(self, record: R) -> None:
        """Add a message.

        Raises:
            trio.WouldBlock: the feed is full.
        """
        self._send.send_nowait((trio.current_time(), record))
        self._note(record)

    async def put(self, record: R) -> None:
        """Add a message; wait while the feed is full.  Cancelled, it has not been added."""
        await self._send.send((trio.current_time(), record))
        self._note(record)

    def _note(self, record: R) -> None:
        if self._asleep:
            message = record.message
            self._missing -= 1
            self._missing_bytes -= len(message.data)
            if self._missing <= 0 or self._missing_bytes <= 0 or message.level is Level.IMPORTANT:
                self._asleep.unpark()

    def finish(self) -> None:
        """Flush what is there and end, as if the room had been idle; so is what comes until then."""
        self._is_finishing = True
        self._idle.cancel()
        self._asleep.unpark()

    async def run(self, ended: Callable[[Feed[R]], None]) -> None:
        """Merge until the room has been idle for `idle_s`, or `finish` was called and all is flushed.

        Cancelled, it hands nothing over any more; the records' owner still has them.

        Args:
            ended: called in the same step in which the channel is found empty, so that a message that
                arrives just then is either seen here or opens another feed.
        """
        try:
            await self._merge()
        finally:
            ended(self)

    async def _merge(self) -> None:
        """Take, merge, flush; return when the room is idle, without an await since the channel was empty."""
        while True:
            await self._take_waiting()
            if not self._batch:
                if self._is_finishing or not await self._take_first():
                    return
            elif self._is_finishing or trio.current_time() >= self._batch.due:
                await self._flush()
            else:
                await self._sleep()

    async def _take_waiting(self) -> None:
        while True:
            try:
                came, record = self._receive.receive_nowait()
            except trio.WouldBlock:
                return
            await self._add(came, record)

    async def _take_first(self) -> bool:
        """Wait for a record; False for an idle room, without an await since the channel was found empty."""
        entry = None
        with trio.CancelScope(deadline=trio.current_time() + self._settings.idle_s) as self._idle:
            entry = await self._receive.receive()
        if entry is None:
            try:
                # Between the deadline and this step somebody may have sent.
                entry = self._receive.receive_nowait()
            except trio.WouldBlock:
                return False
        await self._add(*entry)
        return True

    async def _sleep(self) -> None:
        """Sleep until the batch is due or can be filled; the channel is empty now."""
        missing, self._missing_bytes = self._batch.missing()
        # A channel that is full must be emptied, whether or not that fills the batch.
        self._missing = min(missing, self._settings.feed_messages)
        with trio.move_on_at(self._batch.due):
            await self._asleep.park()

    async def _add(self, came: float, record: R) -> None:
        if self._batch and came >= self._batch.due:
            await self._flush()
        for records in self._batch.add(record, came):
            await self._hand_over(records)

    async def _flush(self) -> None:
        if self._batch:
            await self._hand_over(self._batch.flush())

    async def _hand_over(self, records: Sequence[R]) -> None:
        await self._outlet.wait_space()
        self._outlet.hand_over(push_of(records), partial(self._settle, records))
