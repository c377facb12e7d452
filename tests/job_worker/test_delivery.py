from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from job_worker.delivery import CHECK_INTERVAL_S, Lanes
from job_worker.lane import BURST_BATCHES
from job_worker.merge import push_of
from job_worker.settings import Lane
from schema.message import Level, Message
from tests.job_worker.fakes import FakeConn, Log, message, numbers

N, I = Level.NORMAL, Level.IMPORTANT  # noqa: E741


@dataclass(frozen=True)
class Said:
    message: Message


AT_ONCE = pytest.mark.parametrize("at_once", [1, BURST_BATCHES], ids=["one by one", "in bursts"])


class Node:
    """Lanes to some conn servers, and what became of each batch."""

    def __init__(self, nursery: trio.Nursery, **settings: float) -> None:
        self.log = Log()
        self.presence: list[bool] = []
        self.lanes = Lanes(
            Lane(**settings),  # type: ignore[arg-type]
            self.log,  # type: ignore[arg-type]
            on_presence=self.presence.append,
            jitter=lambda: 1.0,
        )
        self.told: dict[int, tuple[float, bool]] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self.nursery = nursery
        nursery.start_soon(self.lanes.run_clock)

    async def add(self, name: str, conn: FakeConn) -> FakeConn:
        async def run(*, task_status: trio.TaskStatus[object]) -> None:
            with trio.CancelScope() as self.scopes[name]:
                await self.lanes.run_lane(name, conn, task_status=task_status)

        await self.nursery.start(run)
        return conn

    def push(self, number: int, room: str = "r", level: Level = N) -> None:
        def done(is_handed_over: bool) -> None:
            assert number not in self.told, "decided twice"
            self.told[number] = (trio.current_time(), is_handed_over)

        self.lanes.hand_over(push_of([Said(message(number, room, level))]), done)

    async def push_all(self, *pushes: tuple[int, str]) -> None:
        for number, room in pushes:
            await self.lanes.wait_space()
            self.push(number, room)


@asynccontextmanager
async def open_node(**settings: float) -> AsyncIterator[Node]:
    async with trio.open_nursery() as nursery:
        yield Node(nursery, **settings)
        nursery.cancel_scope.cancel()


@AT_ONCE
async def test_every_conn_server_gets_every_batch_in_order(autojump_clock: MockClock, at_once: int) -> None:
    dice = Random(1)
    async with open_node(max_batches=1000) as node:
        conns = [
            await node.add(f"c{number}", FakeConn(takes_s=0.01 * number, at_once=at_once))
            for number in range(3)
        ]
        sent: dict[str, list[int]] = {}
        for number in range(200):
            room = dice.choice("abcde")
            sent.setdefault(room, []).append(number)
            node.push(number, room)
            await trio.sleep(dice.choice([0, 0, 0.02]))
        await trio.sleep(20)
        for conn in conns:
            assert {room: conn.numbers(room) for room in sent} == sent
        assert sorted(node.told) == list(range(200))
        assert all(is_handed_over for _, is_handed_over in node.told.values())
        assert node.lanes.statistics().answered == 600


async def test_what_gathers_behind_a_burst_leaves_together_when_it_is_over(autojump_clock: MockClock) -> None:
    async with open_node() as node:
        conn = await node.add("c", FakeConn(takes_s=1.0))
        for number in range(25):
            node.push(number)
            await trio.sleep(0.1)
        await trio.sleep(5)
        sizes = [len(tried) for _, tried in conn.calls]
        assert sizes[0] == 1
        assert sum(sizes) == 25
        assert len(sizes) == 4
        assert conn.numbers() == list(range(25))


async def test_burst_of_which_nothing_is_answered_is_tried_again_as_a_whole_and_in_order(
    autojump_clock: MockClock,
) -> None:
    async with open_node() as node:
        conn = await node.add("c", FakeConn())
        conn.down()
        for number in range(3):
            node.push(number)
        await trio.sleep(0.3)
        node.push(3)
        conn.down(False)
        await trio.sleep(1)
        assert len(conn.calls) > 2
        assert [len(tried) for _, tried in conn.calls[:-1]] == [3] * (len(conn.calls) - 1)
        assert conn.numbers() == [0, 1, 2, 3]
        assert node.lanes.statistics().retried == len(conn.calls) - 2


async def test_calls_of_several_rooms_are_under_way_at_once(autojump_clock: MockClock) -> None:
    async with open_node(concurrency=8) as node:
        conn = await node.add("c", FakeConn(takes_s=1.0, at_once=1))
        for number in range(24):
            node.push(number, f"room{number % 12}")
        await trio.sleep(100)
        assert conn.most_under_way == 8
        assert max(at for at, _ in node.told.values()) == pytest.approx(3.0)


async def test_batch_is_handed_over_when_all_have_answered(autojump_clock: MockClock) -> None:
    async with open_node() as node:
        await node.add("fast", FakeConn(takes_s=0.1))
        await node.add("slow", FakeConn(takes_s=2.0))
        node.push(1)
        await trio.sleep(5)
        ((at, is_handed_over),) = node.told.values()
        assert at == pytest.approx(2.0)
        assert is_handed_over


async def test_call_without_answer_is_repeated_after_its_deadline_and_a_growing_pause(
    autojump_clock: MockClock,
) -> None:
    async with open_node(call_timeout_s=1.0, detach_after_s=30) as node:
        conn = await node.add("c", FakeConn())
        conn.stall()
        node.push(1)
        node.push(2)
        await trio.sleep(4)
        conn.stall(False)
        await trio.sleep(2)
        starts = [at for at, tried in conn.calls if numbers(tried[0]) == [1]]
        assert [b - a for a, b in pairwise(starts)] == [
            pytest.approx(1 + pause_s + CHECK_INTERVAL_S / 2, abs=CHECK_INTERVAL_S / 2 + 1e-6)
            for pause_s in (0.05, 0.1, 0.2, 0.4)
        ]
        assert conn.numbers() == [1, 2]
        assert node.lanes.statistics().retried == 4


async def test_pause_between_calls_has_a_cap(autojump_clock: MockClock) -> None:
    async with open_node(detach_after_s=100) as node:
        conn = await node.add("c", FakeConn())
        conn.down()
        node.push(1, level=I)
        await trio.sleep(50)
        starts = [at for at, _ in conn.calls]
        pauses = [later - earlier for earlier, later in pairwise(starts)]
        assert pauses[:6] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0])
        assert max(pauses) == pytest.approx(1.0)


async def test_stalling_conn_server_holds_nobody_up_longer_than_its_detachment(
    autojump_clock: MockClock,
) -> None:
    async with open_node(detach_after_s=8.0, patience_s=1.0) as node:
        good = await node.add("good", FakeConn(takes_s=0.01))
        bad = await node.add("bad", FakeConn())
        bad.stall()
        start = trio.current_time()
        for number in range(200):
            await trio.sleep_until(start + 0.1 * (number + 1))
            await node.lanes.wait_space()
            node.push(number, f"room{number % 10}", I if number % 10 == 3 else N)
        await trio.sleep(1)
        # The good one waits once, for as long as the bad one might just be busy.
        assert len(good.taken) == 200
        late = [at - 0.1 * (number + 1) for at, push in good.taken for number in numbers(push)]
        assert max(late) < 1.1
        assert sum(s > 0.1 for s in late) < 15
        latest = max(at - 0.1 * (number + 1) for number, (at, _) in node.told.items())
        assert latest <= 8 + CHECK_INTERVAL_S + 1e-6
        assert all(is_handed_over for _, is_handed_over in node.told.values())
        statistics = node.lanes.statistics()
        assert (statistics.lanes, statistics.detached_lanes, statistics.detached) == (2, 1, 1)
        assert statistics.dropped_normal["detached"] + statistics.dropped_normal.get("full", 0) == 180
        assert not statistics.dropped_important

        bad.stall(False)
        await trio.sleep(5)
        assert bad.numbers("room3") == list(range(3, 200, 10))
        assert node.lanes.statistics().detached_lanes == 0
        assert [text for _, text, _ in node.log.lines] == [
            "conn server detached: no answer",
            "conn server answers again",
        ]


async def test_only_conn_server_that_is_down_for_long_loses_no_important(autojump_clock: MockClock) -> None:
    async with open_node(detach_after_s=8.0) as node:
        conn = await node.add("c", FakeConn())
        conn.down()
        for number in range(10):
            node.push(number, level=I)
        await trio.sleep(60)
        assert node.told == {}
        conn.down(False)
        await trio.sleep(3)
        assert conn.numbers() == list(range(10))
        assert all(is_handed_over for _, is_handed_over in node.told.values())
        assert len(node.told) == 10


async def test_conn_server_that_is_back_is_tried_with_what_comes_next(autojump_clock: MockClock) -> None:
    async with open_node(detach_after_s=8.0) as node:
        conn = await node.add("c", FakeConn())
        conn.down()
        node.push(1)
        await trio.sleep(20)
        ((at, is_handed_over),) = node.told.values()
        assert at == pytest.approx(8, abs=1.5)
        assert is_handed_over
        node.push(2)
        await trio.sleep(1)
        assert node.told[2][1]
        assert conn.taken == []
        conn.down(False)
        node.push(3)
        await trio.sleep(1)
        assert conn.numbers() == [3]
        assert node.lanes.statistics().detached_lanes == 0


async def test_full_lane_makes_feeds_wait_while_it_turns_over(autojump_clock: MockClock) -> None:
    """A backlog that is consumed faster than a sound conn server takes it must not be dropped."""
    async with open_node(max_batches=16, concurrency=4) as node:
        conn = await node.add("c", FakeConn(takes_s=0.05, at_once=1))
        async with trio.open_nursery() as feeds:
            for room in range(20):
                feeds.start_soon(node.push_all, *((100 * room + number, f"{room}") for number in range(50)))
        await trio.sleep(1)
        for room in range(20):
            assert conn.numbers(f"{room}") == [100 * room + number for number in range(50)]
        assert not node.lanes.statistics().dropped_normal
        assert trio.current_time() == pytest.approx(1000 * 0.05 / 4 + 1, rel=0.05)


async def test_slow_conn_server_makes_feeds_wait_once_and_then_drops(autojump_clock: MockClock) -> None:
    async with open_node(max_batches=16, concurrency=1, patience_s=1.0) as node:
        good = await node.add("good", FakeConn(takes_s=0.001, at_once=1))
        slow = await node.add("slow", FakeConn(takes_s=0.5, at_once=1))
        async with trio.open_nursery() as feeds:
            for room in range(20):
                feeds.start_soon(node.push_all, *((100 * room + number, f"{room}") for number in range(50)))
        # A thousand batches to the good one, of a millisecond each, and once the patience.
        assert trio.current_time() == pytest.approx(2.0, abs=0.1)
        await trio.sleep(20)
        assert len(good.taken) + node.lanes.statistics().dropped_normal["full"] >= 1000
        for room in range(20):
            assert slow.numbers(f"{room}") == sorted(slow.numbers(f"{room}"))
        statistics = node.lanes.statistics()
        assert statistics.answered + statistics.dropped_normal["full"] == 2000
        assert len(node.told) == 1000


async def test_lane_of_a_conn_server_that_disappears_ends_and_counts_what_waited(
    autojump_clock: MockClock,
) -> None:
    async with open_node() as node:
        await node.add("stays", FakeConn())
        await node.add("leaves", FakeConn(takes_s=10))
        for number in range(3):
            node.push(number)
        await trio.sleep(1)
        assert node.told == {}
        node.scopes["leaves"].cancel()
        await wait_all_tasks_blocked()
        assert sorted(node.told) == [0, 1, 2]
        assert all(is_handed_over for _, is_handed_over in node.told.values())
        assert node.lanes.statistics().dropped_normal == {"gone": 3}
        assert node.presence == [True]


async def test_batch_that_nobody_got_is_said_to_be_handed_to_nobody(autojump_clock: MockClock) -> None:
    async with open_node() as node:
        node.push(1)
        await node.add("c", FakeConn(takes_s=10))
        node.push(2, level=I)
        await trio.sleep(1)
        node.scopes["c"].cancel()
        await wait_all_tasks_blocked()
        assert {number: is_handed_over for number, (_, is_handed_over) in node.told.items()} == {
            1: False,
            2: False,
        }
        assert node.presence == [True, False]
        assert not node.lanes.is_present


@AT_ONCE
async def test_refused_batch_is_not_repeated_and_delays_nobody(
    autojump_clock: MockClock, at_once: int
) -> None:
    async with open_node() as node:
        conn = await node.add("c", FakeConn(at_once=at_once))
        conn.refuses = lambda push: numbers(push) == [1]
        for number in range(3):
            node.push(number)
        await trio.sleep(0.1)
        assert conn.numbers() == [0, 2]
        assert [number for _, tried in conn.calls for push in tried for number in numbers(push)] == [0, 1, 2]
        assert node.lanes.statistics().dropped_normal == {"refused": 1}
        assert [level for level, _, _ in node.log.lines] == ["error"]


async def test_one_conn_server_has_one_lane(autojump_clock: MockClock) -> None:
    async with open_node() as node:
        await node.add("c", FakeConn())
        with pytest.raises(ValueError, match="lane for c already"):
            await node.lanes.run_lane("c", FakeConn())
        node.push(1)
        await trio.sleep(0.1)
        assert node.told[1][1]


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.05, 3.0, 3.02, 8.0, 8.25, 20.0])
async def test_lanes_can_be_cancelled_at_any_moment(autojump_clock: MockClock, after_s: float) -> None:
    async with open_node() as node:
        for name, takes_s in (("a", 0.01), ("b", 100.0)):
            await node.add(name, FakeConn(takes_s=takes_s))
        for number in range(20):
            node.push(number, f"{number % 3}", I if number % 2 else N)
        await trio.sleep(after_s)
        node.nursery.cancel_scope.cancel()
    assert sorted(node.told) == list(range(20))
    assert node.lanes.statistics().held == node.lanes.statistics().lanes == 0


async def test_worker_that_stood_still_itself_detaches_and_drops_nothing(autojump_clock: MockClock) -> None:
    # It was stopped for longer than `detach_after_s`, with a call under way and another batch behind it.
    async with open_node(detach_after_s=8, call_timeout_s=3) as node:
        conn = await node.add("a", FakeConn())
        conn.stall()
        node.push(1)
        node.push(2)
        await wait_all_tasks_blocked()
        autojump_clock.jump(20.0)
        conn.stall(False)
        await trio.sleep(4)
        statistics = node.lanes.statistics()
        assert (statistics.detached, dict(statistics.dropped_normal)) == (0, {})
        assert [is_handed_over for _, is_handed_over in node.told.values()] == [True, True]


async def test_answer_that_came_while_the_worker_stood_still_is_read_and_nothing_sent_again(
    autojump_clock: MockClock,
) -> None:
    async with open_node(call_timeout_s=3) as node:
        conn = await node.add("a", FakeConn(takes_s=1.0))
        node.push(1)
        await wait_all_tasks_blocked()
        # Its deadline and the answer are due at once now, in whichever order Trio looks at them.
        autojump_clock.jump(20.0)
        await trio.sleep(1)
        assert (conn.numbers(), len(conn.calls)) == ([1], 1)
        assert node.lanes.statistics().retried == 0


async def test_slow_conn_server_makes_important_at_others_late_by_its_detachment_at_most(
    autojump_clock: MockClock,
) -> None:
    """All that may be on loan from the queue would wait for it sooner or later, and everybody with it."""
    at_most_on_loan = 100
    async with open_node(detach_after_s=8.0, window_s=30.0) as node:
        good = await node.add("good", FakeConn(takes_s=0.01))
        slow = await node.add("slow", FakeConn(takes_s=2.0, at_once=1))
        for number in range(1000):
            await trio.sleep_until(max(0.1 * number, trio.current_time()))
            while number - len(node.told) >= at_most_on_loan:  # noqa: ASYNC110  a consumer would wait so
                await trio.sleep(0.05)
            await node.lanes.wait_space()
            node.push(number, f"room{number % 10}", I)
        assert max(at - 0.1 * number for at, push in good.taken for number in numbers(push)) < 8.0
        statistics = node.lanes.statistics()
        assert (statistics.detached, statistics.behind_lanes) == (0, 1)
        slow.takes_s = 0.0
        await trio.sleep(5)
        statistics = node.lanes.statistics()
        assert (statistics.behind_lanes, statistics.held) == (0, 0)
        for room in range(10):
            heard = slow.numbers(f"room{room}")
            assert heard == sorted(heard)
        # What it could not take within the window is lost for it alone, and said to be.
        assert statistics.dropped_important == {"window": 1000 - len(slow.taken)}
