from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from job_worker.feed import Feed
from job_worker.settings import Room
from schema.message import Level, Message, Push
from tests.job_worker.fakes import message, numbers


@dataclass(frozen=True)
class Said:
    message: Message


class FakeOutlet:
    """Takes what is handed over; has space when `space` is set."""

    def __init__(self) -> None:
        self.pushes: list[tuple[float, Push]] = []
        self.done: list[Callable[[bool], None]] = []
        self.space = trio.Event()
        self.space.set()

    async def wait_space(self) -> None:
        await self.space.wait()

    def hand_over(self, push: Push, done: Callable[[bool], None]) -> None:
        self.pushes.append((trio.current_time(), push))
        self.done.append(done)

    @property
    def batches(self) -> list[tuple[float, list[int]]]:
        return [(at, numbers(push)) for at, push in self.pushes]


class Room1:
    """One feed that runs."""

    def __init__(self, nursery: trio.Nursery, settings: Room) -> None:
        self.outlet = FakeOutlet()
        self.settled: list[tuple[list[int], bool]] = []
        self.ended = trio.Event()
        self.feed = Feed[Said]("r", settings, self.outlet, self._settle)
        nursery.start_soon(self.feed.run, lambda _: self.ended.set())

    def _settle(self, records: Sequence[Said], is_handed_over: bool) -> None:
        self.settled.append(([record.message.origin_seq for record in records], is_handed_over))

    def say(self, *names: int, level: Level = Level.NORMAL) -> None:
        for name in names:
            self.feed.put_nowait(Said(message(name, level=level)))


async def test_messages_are_merged_on_time(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    room = Room1(nursery, Room())
    room.say(1)
    await trio.sleep(0.25)
    room.say(2)
    await trio.sleep(0.25)
    room.say(3)
    await trio.sleep(1)
    room.say(4)
    await trio.sleep(0.25)
    room.say(5, level=Level.IMPORTANT)
    room.say(6)
    await trio.sleep(10)
    room.say(7)
    await trio.sleep(0.25)
    assert room.outlet.batches == [
        (0, [1]),
        (1.25, [2, 3]),
        (1.5, [4]),
        (1.75, [5]),
        (2.75, [6]),
        (11.75, [7]),
    ]
    assert [push.level for _, push in room.outlet.pushes].count(Level.IMPORTANT) == 1
    nursery.cancel_scope.cancel()


async def test_important_wakes_a_feed_that_waits_for_its_batch(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    room = Room1(nursery, Room())
    room.say(1)
    await trio.sleep(0.25)
    room.say(2, 3)
    await trio.sleep(0.25)
    room.say(4, level=Level.IMPORTANT)
    room.say(5)
    await trio.sleep(5)
    assert room.outlet.batches == [(0, [1]), (0.5, [2, 3]), (0.5, [4]), (1.5, [5])]
    nursery.cancel_scope.cancel()


async def test_large_messages_fill_a_batch_before_it_is_due(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    room = Room1(nursery, Room(max_bytes=100))
    room.say(1)
    await trio.sleep(0.25)
    for name in (2, 3, 4):
        room.feed.put_nowait(Said(Message("r", Level.NORMAL, b"%d" % name * 40)))
        await trio.sleep(0.25)
    sizes = [(at, len(push.items)) for at, push in room.outlet.pushes]
    assert sizes == [(0, 1), (0.75, 2)]
    nursery.cancel_scope.cancel()


async def test_batches_of_a_busy_room_are_full(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    room = Room1(nursery, Room())
    room.say(*range(50))
    await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()
    assert [len(batch) for _, batch in room.outlet.batches] == [1, 20, 20]
    await trio.sleep(1.1)
    assert [len(batch) for _, batch in room.outlet.batches] == [1, 20, 20, 9]
    nursery.cancel_scope.cancel()


async def test_records_are_settled_with_their_batch(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    room = Room1(nursery, Room())
    room.say(1, 2, 3)
    await trio.sleep(2)
    assert room.settled == []
    room.outlet.done[1](False)
    room.outlet.done[0](True)
    assert room.settled == [([2, 3], False), ([1], True)]
    nursery.cancel_scope.cancel()


async def test_full_feed_makes_its_sender_wait(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    room = Room1(nursery, Room(feed_messages=3))
    room.outlet.space = trio.Event()
    room.say(1)
    await wait_all_tasks_blocked()
    room.say(2, 3, 4)
    with pytest.raises(trio.WouldBlock):
        room.say(5)
    with trio.move_on_after(5):
        await room.feed.put(Said(message(5)))
    nursery.start_soon(room.feed.put, Said(message(6)))
    await wait_all_tasks_blocked()
    room.outlet.space.set()
    await trio.sleep(2)
    assert [name for _, batch in room.outlet.batches for name in batch] == [1, 2, 3, 4, 6]
    nursery.cancel_scope.cancel()


async def test_feed_that_waits_for_space_still_keeps_its_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    room = Room1(nursery, Room())
    room.say(1)
    await trio.sleep(0.5)
    room.say(2)
    room.outlet.space = trio.Event()
    await trio.sleep(2)
    room.say(3)
    room.outlet.space.set()
    await trio.sleep(5)
    assert room.outlet.batches == [(0, [1]), (2.5, [2]), (2.5, [3])]
    nursery.cancel_scope.cancel()


async def test_feed_ends_when_its_room_is_idle(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    room = Room1(nursery, Room(idle_s=600))
    room.say(1)
    await trio.sleep(599)
    room.say(2)
    await trio.sleep(599)
    assert not room.ended.is_set()
    await trio.sleep(2)
    assert room.ended.is_set()
    assert [batch for _, batch in room.outlet.batches] == [[1], [2]]


async def test_finished_feed_flushes_what_it_has_and_ends(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    room = Room1(nursery, Room())
    room.say(1, 2, 3)
    room.feed.finish()
    await room.ended.wait()
    assert trio.current_time() == 0
    assert [batch for _, batch in room.outlet.batches] == [[1], [2, 3]]


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 1.0, 599.0, 600.0])
async def test_cancelled_feed_ends_and_settles_nothing(autojump_clock: MockClock, delay_s: float) -> None:
    async with trio.open_nursery() as nursery:
        room = Room1(nursery, Room(idle_s=600))
        room.say(1, 2)
        await trio.sleep(delay_s)
        nursery.cancel_scope.cancel()
    assert room.ended.is_set()
    assert room.settled == []
