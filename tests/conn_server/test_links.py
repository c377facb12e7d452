"""The logic servers as one: admission, waiting, giving up, and the deadline of who finds nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from conn_server.lanes import Ask, End, Lane, UnaryLane
from conn_server.links import CLOCK_S, LinksStatistics, LogicLinks, LogicOptions
from schema.access import Code, Grant, Refused, Unavailable
from schema.message import Level, Message
from schema.proto.logic_pb2 import LinkReply

OPTIONS = LogicOptions(homeless_s=2.0)


class FakeLane:
    """A lane in which asks lie until a test answers them."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []

    def add(self, ask: Ask) -> None:
        self.asks.append(ask)

    def take_queued(self) -> list[Ask]:
        return []

    def take_back(self) -> list[Ask]:
        asks, self.asks = self.asks, []
        return asks

    @property
    def queued(self) -> int:
        return len(self.asks)

    @property
    def unanswered(self) -> int:
        return 0


def message(number: int = 1, data: bytes = b"x") -> Message:
    return Message("lobby", Level.NORMAL, data, 7, number, "ann", 1)


async def test_grant_and_stored_message_come_back_to_who_asked() -> None:
    links, lane = LogicLinks(OPTIONS), FakeLane()
    links.lane_opened("a", lane)
    grants: list[Grant] = []

    async def sign_in(token: str) -> None:
        grants.append(await links.authenticate(token))

    async with trio.open_nursery() as nursery:
        for token in ("1", "2"):
            nursery.start_soon(sign_in, token)
        nursery.start_soon(links.publish, message())
        await wait_all_tasks_blocked()
        for ask in lane.asks:
            links.settle(ask, End.STORED if ask.token is None else Grant(int(ask.token), ask.token))
    assert sorted(grant.uid for grant in grants) == [1, 2]
    (body,) = (ask.body for ask in lane.asks if ask.token is None)
    assert Message.decode(body) == message()


async def test_refusal_is_raised_and_counted() -> None:
    links, lane = LogicLinks(OPTIONS), FakeLane()
    links.lane_opened("a", lane)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(Refused, match="slow down"):
                await links.publish(message())

        await wait_all_tasks_blocked()
        links.settle(lane.asks[0], Refused(Code.TOO_FAST, "slow down"))
    assert links.statistics().not_done == {"too_fast": 1}


async def test_answer_of_the_other_kind_is_none() -> None:
    """Whatever was no refusal used to be an acknowledgement to a publish."""
    links, lane = LogicLinks(OPTIONS), FakeLane()
    links.lane_opened("a", lane)

    async def sign_in() -> None:
        with pytest.raises(Unavailable, match="mixed up"):
            await links.authenticate("t")

    async def publish() -> None:
        with pytest.raises(Unavailable, match="mixed up"):
            await links.publish(message())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign_in)
        nursery.start_soon(publish)
        await wait_all_tasks_blocked()
        for ask in lane.asks:
            links.settle(ask, Grant(1, "1") if ask.token is None else End.STORED)
    assert links.statistics().not_done == {"unavailable": 2}


async def test_token_that_cannot_be_sent_is_refused() -> None:
    links, lane = LogicLinks(OPTIONS), FakeLane()
    links.lane_opened("a", lane)
    with pytest.raises(Refused) as caught:
        await links.authenticate("a.b.\udcff")
    assert caught.value.code is Code.NOT_SIGNED_IN
    assert lane.asks == []


async def test_who_finds_nobody_is_told_long_before_its_own_deadline(autojump_clock: MockClock) -> None:
    links = LogicLinks(OPTIONS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(links.run_clock)
        began = trio.current_time()
        with pytest.raises(Unavailable, match="no logic server"):
            await links.authenticate("t")
        assert 2 <= trio.current_time() - began <= 2 + CLOCK_S
        # And again: the next one's time is its own.
        await trio.sleep(5)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await links.publish(message())
        assert 2 <= trio.current_time() - began <= 2 + CLOCK_S
        nursery.cancel_scope.cancel()


async def test_each_of_many_who_find_nobody_waits_its_own_time(autojump_clock: MockClock) -> None:
    links = LogicLinks(OPTIONS)
    waited: list[float] = []

    async def sign_in(after_s: float) -> None:
        await trio.sleep(after_s)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await links.authenticate("t")
        waited.append(trio.current_time() - began)

    async with trio.open_nursery() as background:
        background.start_soon(links.run_clock)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(sign_in, number / 4)
        background.cancel_scope.cancel()
    assert len(waited) == 10
    assert all(2 <= each <= 2 + CLOCK_S for each in waited)


async def test_lane_that_opens_in_time_saves_who_waits(autojump_clock: MockClock) -> None:
    links, lane = LogicLinks(OPTIONS), FakeLane()
    async with trio.open_nursery() as background:
        background.start_soon(links.run_clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(links.publish, message())
            await trio.sleep(1.5)
            assert links.statistics().homeless == 1
            links.lane_opened("a", lane)
            await trio.sleep(3)
            links.settle(lane.asks[0], End.STORED)
        background.cancel_scope.cancel()


async def test_what_falls_out_of_a_lost_lane_is_told_as_well(autojump_clock: MockClock) -> None:
    """Nobody new came, so nothing used to wake the task that tells them."""
    links, lane = LogicLinks(OPTIONS), FakeLane()
    began = trio.current_time()
    links.lane_opened("a", lane)
    async with trio.open_nursery() as background:
        background.start_soon(links.run_clock)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(Unavailable):
                    await links.publish(message())

            await trio.sleep(1)
            links.lane_lost("a", lane)
            nursery.cancel_scope.deadline = trio.current_time() + 60
        assert not nursery.cancel_scope.cancelled_caught
        assert 2 <= trio.current_time() - began - 1 < 3
        background.cancel_scope.cancel()


async def test_what_was_held_behind_the_last_answer_is_told_as_well(autojump_clock: MockClock) -> None:
    """An answer, of all things, left it without a lane, and nothing woke the task that told those."""
    links, lane = LogicLinks(replace(OPTIONS, ask_s=60.0)), FakeLane()
    links.lane_opened("a", lane)
    async with trio.open_nursery() as background:
        background.start_soon(links.run_clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(links.publish, message(1))
            await wait_all_tasks_blocked()
            links.lane_retired("a", lane)

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(Unavailable, match="no logic server"):
                    await links.publish(message(2))

            await trio.sleep(10)
            began = trio.current_time()
            links.settle(lane.asks[0], End.STORED)
        assert 2 <= trio.current_time() - began <= 2 + CLOCK_S
        background.cancel_scope.cancel()


async def test_too_many_waiting_are_refused_at_once() -> None:
    links, lane = LogicLinks(replace(OPTIONS, max_waiting=2)), FakeLane()
    links.lane_opened("a", lane)
    async with trio.open_nursery() as nursery:
        for number in (1, 2):
            nursery.start_soon(links.publish, message(number))
        await wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match="too much"):
            await links.authenticate("t")
        assert links.statistics().waiting == 2
        for ask in lane.asks:
            links.settle(ask, End.STORED)
    assert links.statistics().waiting == 0
    assert links.statistics().not_done == {"busy": 1}


async def test_too_many_bytes_waiting_are_refused_at_once() -> None:
    links, lane = LogicLinks(replace(OPTIONS, max_waiting_bytes=200)), FakeLane()
    links.lane_opened("a", lane)
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(links.publish, message(1, b"x" * 100))
            await wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="too much"):
                await links.publish(message(2, b"x" * 100))
            links.settle(lane.asks[0], End.STORED)
    assert links.statistics().waiting_bytes == 0


async def test_answer_to_who_has_given_up_is_nobodys() -> None:
    links, lane = LogicLinks(OPTIONS), FakeLane()
    links.lane_opened("a", lane)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(links.publish, message())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (ask,) = lane.asks
    assert ask.given_up
    assert links.statistics().waiting == 1
    links.settle(ask, End.STORED)
    assert links.statistics().waiting == 0


async def test_who_is_not_answered_is_told_after_the_asks_own_deadline(autojump_clock: MockClock) -> None:
    """Callers rely on it: a client that publishes has no cancel scope of its own."""
    links, lane = LogicLinks(OPTIONS), FakeLane()
    links.lane_opened("a", lane)
    told: list[float] = []

    async def publish(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        with pytest.raises(Unavailable, match="in time"):
            await links.publish(message(number))
        told.append(trio.current_time())

    async with trio.open_nursery() as clock:
        clock.start_soon(links.run_clock)
        async with trio.open_nursery() as nursery:
            await nursery.start(publish, 1)
            await trio.sleep(1)
            await nursery.start(publish, 2)
        clock.cancel_scope.cancel()
    begun = trio.current_time() - OPTIONS.ask_s - 1 - CLOCK_S
    assert [begun + OPTIONS.ask_s <= at <= begun + OPTIONS.ask_s + 2 + CLOCK_S for at in told] == [True, True]
    assert told[1] - told[0] == pytest.approx(1, abs=CLOCK_S)
    assert all(ask.given_up for ask in lane.asks)
    links.lane_lost("a", lane)
    assert links.statistics().waiting == 0


async def test_who_was_given_up_is_not_told_otherwise_by_the_lane_that_forgets_it(
    autojump_clock: MockClock,
) -> None:
    """The lane looked at its queue between the clock and the task that waits.  "Forgotten" was the same as
    "stored" and came last, so that a message which nobody had been asked to store was acknowledged."""
    links, told = LogicLinks(OPTIONS), list[Unavailable]()
    link = Lane(LinkReply.Window(items=10, bytes=1000), links.tally, links.settle, lambda: None)
    unary = UnaryLane(1, links.tally, links.settle, lambda: None)

    async def tell(ask: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(Unavailable, match="in time") as caught:
            await ask()
        told.append(caught.value)

    for lane, take in ((link, lambda: link.take(0.0)), (unary, lambda: unary.take(0))):
        links.lane_opened("a", lane)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell, partial(links.publish, message()))
            nursery.start_soon(tell, partial(links.authenticate, "t"))
            await wait_all_tasks_blocked()
            links.time_passed(trio.current_time() + OPTIONS.ask_s)
            assert take() is None
            assert lane.is_idle
        links.lane_lost("a", lane)
    assert len(told) == 4
    assert links.statistics().not_done == {"unavailable": 4}


async def test_coming_and_going_of_lanes_is_shown() -> None:
    links, lane = LogicLinks(OPTIONS), FakeLane()
    seen: list[bool] = []

    async def watch() -> None:
        while True:
            seen.append(links.is_open)
            await links.wait_changed()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        links.lane_opened("a", lane)
        await wait_all_tasks_blocked()
        links.lane_retired("a", lane)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == [False, True, False]


async def test_what_waits_is_somewhere() -> None:
    """What was held, or under way on a retired lane, was waiting and nowhere."""
    links = LogicLinks(OPTIONS)
    window = LinkReply.Window(items=1, bytes=1000)
    lane = Lane(window, links.tally, links.settle, lambda: None)
    links.lane_opened("a", lane)
    async with trio.open_nursery() as nursery:
        for number in (1, 2):
            nursery.start_soon(links.publish, message(number))
            await wait_all_tasks_blocked()
        lane.take(0.0)
        assert where(links) == {"waiting": 2, "homeless": 0, "held": 0, "queued": 1, "unanswered": 1}
        links.lane_retired("a", lane)
        nursery.start_soon(links.authenticate, "t")
        await wait_all_tasks_blocked()
        assert where(links) == {"waiting": 3, "homeless": 1, "held": 1, "queued": 0, "unanswered": 1}
        nursery.cancel_scope.cancel()
    assert where(links) == {"waiting": 3, "homeless": 1, "held": 1, "queued": 0, "unanswered": 1}
    links.lane_lost("a", lane)
    assert where(links) == {"waiting": 1, "homeless": 1, "held": 0, "queued": 0, "unanswered": 0}
    links.time_passed(trio.current_time() + OPTIONS.homeless_s)
    assert set(where(links).values()) == {0}


def where(links: LogicLinks) -> dict[str, int]:
    counted = links.statistics()
    return {name: getattr(counted, name) for name in ("waiting", "homeless", "held", "queued", "unanswered")}


def test_gauges_are_names_of_statistics() -> None:
    assert set(LogicLinks.GAUGES) <= {each.name for each in fields(LinksStatistics)}
