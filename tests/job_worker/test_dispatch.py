from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from job_worker.dispatch import Dispatch
from job_worker.settings import Room
from schema.message import Push
from tests.job_worker.fakes import message, numbers
from tests.job_worker.test_feed import Said


class Sink:
    """An outlet that notes what each room got."""

    def __init__(self) -> None:
        self.rooms: dict[str, list[int]] = {}
        self.space = trio.Event()
        self.space.set()

    async def wait_space(self) -> None:
        await self.space.wait()

    def hand_over(self, push: Push, done: Callable[[bool], None]) -> None:
        self.rooms.setdefault(push.room, []).extend(numbers(push))
        done(True)


def open_dispatch(nursery: trio.Nursery, **settings: float) -> tuple[Dispatch[Said], Sink, list[int]]:
    sink = Sink()
    settled: list[int] = []

    def settle(records: Sequence[Said], is_handed_over: bool) -> None:
        assert is_handed_over
        settled.extend(record.message.origin_seq for record in records)

    return Dispatch(Room(**settings), sink, settle, nursery), sink, settled  # type: ignore[arg-type]


async def test_each_room_has_one_feed(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    dispatch, sink, settled = open_dispatch(nursery)
    for number in range(9):
        await dispatch.put(Said(message(number, "abc"[number % 3])))
    assert dispatch.statistics().feeds == 3
    await trio.sleep(2)
    assert sink.rooms == {"a": [0, 3, 6], "b": [1, 4, 7], "c": [2, 5, 8]}
    assert sorted(settled) == list(range(9))
    await trio.sleep(601)
    assert (dispatch.statistics().feeds, dispatch.statistics().opened) == (0, 3)


async def test_full_feed_makes_the_consumer_wait_and_loses_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    dispatch, sink, _ = open_dispatch(nursery, feed_messages=4)
    sink.space = trio.Event()

    async def consume() -> None:
        for number in range(20):
            await dispatch.put(Said(message(number)))

    nursery.start_soon(consume)
    await wait_all_tasks_blocked()
    assert dispatch.statistics().dispatched < 10
    assert dispatch.statistics().waits["feed full"] >= 1
    sink.space.set()
    await trio.sleep(2)
    assert sink.rooms == {"r": list(range(20))}
    await dispatch.drain()


async def test_room_beyond_the_limit_takes_the_place_of_the_quietest_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    dispatch, sink, settled = open_dispatch(nursery, max_rooms=2, idle_s=600)
    for number, room in enumerate("abacaacb"):
        await dispatch.put(Said(message(number, room)))
    assert trio.current_time() == 0
    statistics = dispatch.statistics()
    assert (statistics.feeds, statistics.opened, statistics.waits["rooms"]) == (2, 4, 2)
    await trio.sleep(2)
    assert sink.rooms == {"a": [0, 2, 4, 5], "b": [1, 7], "c": [3, 6]}
    assert sorted(settled) == list(range(8))
    await dispatch.drain()


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_is_lost_or_overtaken_when_feeds_take_each_others_places(
    autojump_clock: MockClock, nursery: trio.Nursery, seed: int
) -> None:
    dispatch, sink, settled = open_dispatch(nursery, max_rooms=2, feed_messages=2)
    dice = Random(seed)
    numbers_of: dict[str, list[int]] = {}

    async def talk(rooms: str, first: int) -> None:
        for number in range(first, first + 50):
            room = dice.choice(rooms)
            numbers_of.setdefault(room, []).append(number)
            await dispatch.put(Said(message(number, room)))
            if dice.random() < 0.2:
                await trio.sleep(dice.choice([0.0, 0.5, 1.0]))

    async with trio.open_nursery() as intakes:
        for at, rooms in enumerate(("ab", "cd", "ef")):
            intakes.start_soon(talk, rooms, 50 * at)
    await dispatch.drain()
    assert sink.rooms == numbers_of
    assert sorted(settled) == list(range(150))


async def test_drain_flushes_all_feeds_at_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    dispatch, sink, _ = open_dispatch(nursery)
    for number in range(60):
        await dispatch.put(Said(message(number, f"room{number % 20}")))
    await dispatch.drain()
    assert trio.current_time() == 0
    assert dispatch.statistics().feeds == 0
    assert sorted(chain(*sink.rooms.values())) == list(range(60))


@pytest.mark.parametrize("offset_s", [-1e-9, 0.0, 1e-9])
@pytest.mark.parametrize("seed", range(12))
async def test_message_that_arrives_as_its_feed_is_ending_is_not_lost(
    autojump_clock: MockClock, nursery: trio.Nursery, offset_s: float, seed: int
) -> None:
    """Several tasks put messages at the very time at which the room's feed ends.

    The Go system's feed decides to end, and then takes itself out of the map: what is put in between is
    lost.  Trio runs tasks that are due together in a random order, so that each order comes up.
    """
    dispatch, sink, settled = open_dispatch(nursery, idle_s=10)
    dice = Random(seed)
    sent = 0

    async def put(number: int) -> None:
        for _ in range(dice.randrange(3)):
            await trio.lowlevel.cancel_shielded_checkpoint()
        await dispatch.put(Said(message(number)))

    for _ in range(5):
        async with trio.open_nursery() as senders:
            for _ in range(dice.randrange(1, 4)):
                senders.start_soon(put, sent)
                sent += 1
        # The feed's last wait began when it flushed, at once or a second after the first record.
        await trio.sleep(dice.choice([10, 11]) + offset_s)
        # In the step in which the deadline has woken the feed, before or after it has run.
        await dispatch.put(Said(message(sent)))
        sent += 1
    await trio.sleep(30)
    assert sorted(sink.rooms["r"]) == sorted(settled) == list(range(sent))
    assert dispatch.statistics().feeds == 0


async def test_cancelled_put_has_not_put(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    dispatch, sink, _ = open_dispatch(nursery, feed_messages=1)
    sink.space = trio.Event()
    await dispatch.put(Said(message(1)))
    await wait_all_tasks_blocked()
    await dispatch.put(Said(message(2)))
    with trio.move_on_after(1):
        await dispatch.put(Said(message(3)))
    sink.space.set()
    await dispatch.drain()
    assert sink.rooms == {"r": [1, 2]}
