from __future__ import annotations

from itertools import count

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from job_worker.handover import Handover, Outcome
from job_worker.lane import BOOKKEEPING_BYTES, BURST_BATCHES, BURST_BYTES, Held, Lane, Tally
from job_worker.merge import push_of
from job_worker.settings import Lane as LaneSettings
from schema.batch import HEAD_BYTES
from schema.message import Level, Message, Push
from tests.job_worker.fakes import numbers

N, I = Level.NORMAL, Level.IMPORTANT  # noqa: E741


class _Said:
    def __init__(self, message: Message) -> None:
        self.message = message


def push(number: int, room: str = "r", level: Level = N, size: int = 0) -> Push:
    data = b"%d" % number
    return push_of([_Said(Message(room, level, data.ljust(size)))])


class Bench:
    """A lane, and what became of each batch."""

    def __init__(self, **settings: float) -> None:
        self.tally = Tally()
        self.lane = Lane(LaneSettings(**settings), self.tally)  # type: ignore[arg-type]
        self.told: dict[int, bool] = {}

    def offer(
        self, number: int, room: str = "r", level: Level = N, now: float = 0, *, lanes: int = 1, size: int = 0
    ) -> Handover:
        def done(is_handed_over: bool) -> None:
            assert number not in self.told, "decided twice"
            self.told[number] = is_handed_over

        handover = Handover(lanes, done)
        self.lane.offer(push(number, room, level, size), handover, now)
        return handover

    def take(self, now: float = 0) -> Held:
        (held,) = self.lane.take(now)
        return held

    def answer_all(self, now: float = 0) -> list[list[int]]:
        """Return the bursts that there are."""
        bursts = []
        while burst := self.lane.take(now):
            bursts.append([number(held) for held in burst])
            for held in burst:
                self.lane.answered(held, now)
        return bursts


def number(held: Held) -> int:
    return numbers(held.push)[0]


def test_room_has_one_burst_under_way_and_other_rooms_do_not_wait_for_it() -> None:
    bench = Bench()
    bench.offer(1, "a")
    first = bench.take()
    for name, room in ((2, "a"), (3, "b"), (4, "a")):
        bench.offer(name, room)
    third = bench.take()
    assert number(third) == 3
    assert bench.lane.take(0) == []
    bench.lane.answered(first, 0)
    second, fourth = bench.lane.take(0)
    assert (number(second), number(fourth)) == (2, 4)
    bench.offer(5, "a")
    for over in (third, second):
        bench.lane.answered(over, 0)
        assert bench.lane.take(0) == []
    bench.lane.answered(fourth, 0)
    bench.lane.answered(bench.take(), 0)
    assert bench.told == dict.fromkeys((1, 3, 2, 4, 5), True)
    assert bench.lane.statistics().batches == 0


def test_burst_is_bounded_in_batches_and_in_bytes() -> None:
    bench = Bench(max_batches=100)
    for name in range(BURST_BATCHES + 1):
        bench.offer(name, "many")
    half = BURST_BYTES // 2
    for name, size in ((20, half), (21, half - 2 * HEAD_BYTES), (22, 0), (23, BURST_BYTES), (24, 0)):
        bench.offer(name, "large", size=size)
    assert bench.answer_all() == [[*range(BURST_BATCHES)], [20, 21], [BURST_BATCHES], [22], [23], [24]]


def test_rooms_take_turns() -> None:
    bench = Bench()
    for name, room in ((1, "a"), (2, "a"), (3, "b"), (4, "b")):
        bench.offer(name, room, size=BURST_BYTES)
    assert bench.answer_all() == [[1], [3], [2], [4]]


def test_full_lane_drops_the_oldest_waiting_normal_and_keeps_important() -> None:
    bench = Bench(max_batches=3)
    bench.offer(1)
    under_way = bench.take()
    bench.offer(2, level=I)
    for name in (3, 4):
        bench.offer(name)
    assert bench.told == {3: True}
    bench.offer(5, level=I)
    assert bench.told == {3: True, 4: True}
    bench.offer(6, level=I)
    assert bench.lane.statistics().batches == 4
    assert bench.tally.dropped_normal == {"full": 2}
    assert not bench.tally.dropped_important
    bench.lane.answered(under_way, 0)
    assert bench.answer_all() == [[2, 5, 6]]


def test_bytes_are_bounded_as_well() -> None:
    bench = Bench(max_bytes=3 * (1000 + BOOKKEEPING_BYTES + 4))
    for name in range(4):
        bench.offer(name, size=1000)
    assert bench.told == {0: True}
    assert bench.lane.statistics().held_bytes == 3 * (1000 + BOOKKEEPING_BYTES + 4)


def test_full_lane_asks_to_wait_as_long_as_it_turns_over() -> None:
    bench = Bench(max_batches=4, patience_s=1.0)
    lane = bench.lane
    assert lane.wait_until(0) == 0
    for name in range(4):
        bench.offer(name, room=str(name))
    assert lane.wait_until(10) == 11
    assert lane.wait_until(10.5) == 11
    for name in range(4, 8):
        lane.answered(bench.take(), 10.6)
        bench.offer(name, room=str(name))
    assert lane.wait_until(11) == 12
    lane.answered(bench.take(), 11.5)
    assert lane.wait_until(11.5) == 11.5
    assert not lane.take_relief()
    lane.answered(bench.take(), 11.6)
    assert lane.take_relief()
    assert not lane.take_relief()


def test_slow_lane_asks_nobody_to_wait_until_half_of_it_is_free() -> None:
    bench = Bench(max_batches=4, patience_s=1.0)
    lane = bench.lane
    for name in range(4):
        bench.offer(name, room=str(name))
    assert lane.wait_until(0) == 1
    lane.answered(bench.take(), 0.9)
    bench.offer(4, room="4")
    assert lane.wait_until(1) == 1
    assert lane.statistics().slow
    lane.answered(bench.take(), 1.1)
    bench.offer(5, room="5")
    assert lane.wait_until(1.1) == 1.1
    lane.answered(bench.take(), 1.2)
    lane.answered(bench.take(), 1.2)
    assert not lane.statistics().slow
    for name in (6, 7):
        bench.offer(name, room=str(name))
    assert lane.wait_until(1.2) == 2.2


def test_silent_lane_is_detached_and_holds_nobody_up() -> None:
    bench = Bench(detach_after_s=8.0)
    lane = bench.lane
    first = bench.offer(1, "a", I, lanes=2)
    bench.offer(2, "b", N, lanes=2)
    important, normal = bench.take(), bench.take()
    third = bench.offer(3, "a", N, lanes=2)
    fourth = bench.offer(4, "a", I, lanes=2)
    for handover in (first, third, fourth):
        handover.settle(Outcome.ANSWERED, is_kept=False)
    lane.check(7.9)
    assert (lane.is_detached, bench.told) == (False, {})
    lane.check(8)
    assert lane.statistics().detached
    assert bench.told == {1: True, 3: True, 4: True}
    assert bench.tally.dropped_normal == {"detached": 1}
    assert lane.failed(important, 8.5)
    assert not lane.failed(normal, 8.5)
    assert bench.tally.dropped_normal == {"detached": 2}
    assert lane.wait_until(9) == 9
    lane.answered(important, 10)
    assert not lane.statistics().detached
    assert number(bench.take()) == 4


def test_detached_lane_tries_one_normal_at_a_time() -> None:
    bench = Bench(detach_after_s=8.0)
    lane = bench.lane
    bench.offer(1)
    first = bench.take()
    lane.check(8)
    assert not lane.failed(first, 8)
    bench.offer(2, now=9)
    bench.offer(3, now=9)
    assert bench.told == {1: True, 3: True}
    tried = bench.take(9)
    assert number(tried) == 2
    lane.answered(tried, 9.5)
    assert bench.told[2] is True
    assert not lane.is_detached


def test_answers_to_others_keep_a_lane_attached_but_not_a_normal_for_ever() -> None:
    bench = Bench(detach_after_s=8.0)
    lane = bench.lane
    bench.offer(1, "a")
    stuck = bench.take()
    for now in range(1, 8):
        bench.offer(10 + now, "b", now=now)
        lane.answered(bench.take(now), now)
        lane.check(now)
        assert lane.failed(stuck, now)
    lane.check(8)
    assert not lane.is_detached
    assert not lane.failed(stuck, 8)
    assert bench.tally.dropped_normal == {"late": 1}


def test_important_is_kept_for_the_window() -> None:
    bench = Bench(detach_after_s=8.0, window_s=120.0)
    lane = bench.lane
    bench.offer(1, "a", I)
    first = bench.take()
    bench.offer(2, "a", I, now=1)
    bench.offer(3, "b", I, now=2)
    lane.check(119)
    assert lane.failed(first, 119)
    lane.check(121)
    assert bench.told == {2: False}
    assert not lane.failed(first, 121)
    assert bench.told == {1: False, 2: False}
    assert bench.tally.dropped_important == {"window": 2}
    assert number(bench.take()) == 3


def test_lane_that_is_too_late_holds_nobody_up_until_it_has_caught_up() -> None:
    bench = Bench(detach_after_s=8.0)
    lane = bench.lane
    handovers = [bench.offer(name, "a", I, lanes=2, size=BURST_BYTES) for name in range(3)]
    for handover in handovers:
        handover.settle(Outcome.ANSWERED, is_kept=False)
    for now in (3, 6):
        lane.answered(bench.take(now), now)
        lane.check(now)
        assert not lane.is_behind
    assert bench.told == {0: True, 1: True}
    lane.check(8)
    assert (lane.is_behind, lane.is_detached) == (True, False)
    assert bench.told[2]
    bench.offer(3, "b", I, now=9, lanes=2).settle(Outcome.ANSWERED, is_kept=False)
    assert bench.told[3]
    lane.answered(bench.take(9), 9)
    lane.check(9.25)
    assert not lane.is_behind
    bench.offer(4, "c", I, now=9.5, lanes=2).settle(Outcome.ANSWERED, is_kept=False)
    assert 4 not in bench.told
    assert not lane.statistics().behind


def test_lane_that_nobody_waits_for_keeps_the_newest_important_that_fit() -> None:
    bench = Bench(max_bytes=3 * (1000 + BOOKKEEPING_BYTES + 4))
    for name in range(3):
        bench.offer(name, str(name), I, size=1000, lanes=2).settle(Outcome.ANSWERED, is_kept=False)
    under_way = bench.take()
    bench.offer(3, "3", I, size=1000, lanes=2).settle(Outcome.ANSWERED, is_kept=False)
    assert bench.told == {}
    bench.lane.check(8)
    assert bench.tally.dropped_important == {"full": 1}
    bench.offer(4, "4", I, now=8, size=1000, lanes=2).settle(Outcome.ANSWERED, is_kept=False)
    assert bench.told == dict.fromkeys(range(5), True)
    assert bench.tally.dropped_important == {"full": 2}
    assert number(under_way) == 0


def test_what_is_on_loan_still_is_not_dropped_for_want_of_room_only_to_come_again() -> None:
    bench = Bench(max_bytes=1000)
    for name in range(5):
        bench.offer(name, "a", I, size=1000)
    bench.lane.check(8)
    bench.offer(5, "a", I, size=1000, now=8)
    assert bench.lane.statistics().batches == 6
    assert (bench.told, bench.tally.dropped_important) == ({}, {})


def test_refused_batch_is_over_and_the_lane_alive() -> None:
    bench = Bench(detach_after_s=8.0)
    bench.offer(1, level=I)
    held = bench.take()
    bench.lane.check(8)
    bench.lane.refused(held, 9)
    assert bench.told == {1: True}
    assert bench.tally.dropped_important == {"refused": 1}
    assert not bench.lane.is_detached


def test_of_a_burst_that_fails_only_what_is_worth_it_is_tried_again() -> None:
    bench = Bench(detach_after_s=8.0, window_s=120.0)
    bench.offer(1, "a", N)
    bench.offer(2, "a", I)
    burst = bench.lane.take(0)
    bench.offer(3, "a", N, now=7)
    assert [bench.lane.failed(held, 9) for held in burst] == [False, True]
    assert bench.lane.take(9) == []
    bench.lane.answered(burst[1], 10)
    assert number(bench.take(10)) == 3
    assert bench.told == {1: True, 2: True}


def test_what_was_not_tried_of_a_burst_waits_again_in_its_place() -> None:
    bench = Bench(max_batches=3)
    for name in (1, 2, 3):
        bench.offer(name, "a")
    first, second, third = bench.lane.take(0)
    bench.lane.untried([second, third])
    bench.lane.answered(first, 0)
    bench.offer(4, "a")
    bench.offer(5, "a")  # one too many
    assert bench.told == {1: True, 2: True}
    assert bench.tally.dropped_normal == {"full": 1}
    assert bench.answer_all() == [[3, 4, 5]]


def test_detached_lane_is_tried_with_one_batch_and_not_with_a_burst() -> None:
    bench = Bench(detach_after_s=8.0)
    for name in (1, 2):
        bench.offer(name, "a", I)
    bench.lane.check(8)
    assert number(bench.take(8)) == 1


def test_closed_lane_settles_all_it_holds() -> None:
    bench = Bench()
    bench.offer(1)
    bench.offer(2, level=I)
    bench.lane.take(0)
    bench.offer(3)
    bench.lane.close()
    assert bench.told == {1: False, 2: False, 3: False}
    assert (bench.tally.dropped_normal, bench.tally.dropped_important) == ({"gone": 2}, {"gone": 1})
    assert bench.lane.statistics().batches == bench.lane.statistics().held_bytes == 0


class LaneMachine(RuleBasedStateMachine):
    """Whatever comes in whatever order: order per room, bounds, each batch settled exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(max_batches=4, detach_after_s=8, window_s=30, patience_s=1)
        self.numbers = count()
        self.offered: dict[str, list[int]] = {}
        self.taken: dict[str, list[int]] = {}
        self.under_way: list[Held] = []
        self.now = 0.0

    @rule(room=st.sampled_from("abc"), level=st.sampled_from(Level))
    def offer(self, room: str, level: Level) -> None:
        name = next(self.numbers)
        self.offered.setdefault(room, []).append(name)
        self.bench.offer(name, room, level, self.now)

    @rule()
    def take(self) -> None:
        burst = self.bench.lane.take(self.now)
        assert not {held.push.room for held in burst} & {held.push.room for held in self.under_way}
        for held in burst:
            self.under_way.append(held)
            self.taken.setdefault(held.push.room, []).append(number(held))

    @rule(place=st.integers(0, 5), end=st.sampled_from(["answered", "refused", "failed"]))
    def end(self, place: int, end: str) -> None:
        if self.under_way:
            held = self.under_way.pop(place % len(self.under_way))
            if getattr(self.bench.lane, end)(held, self.now) is True:
                self.under_way.append(held)

    @rule(tried=st.integers(1, 3))
    def take_back(self, tried: int) -> None:
        """Settle the beginning of a burst that nobody has said anything about, and take back the rest."""
        burst = [held for held in self.under_way if held.push.room == self.under_way[0].push.room]
        rest = burst[tried:]
        for held in rest:
            self.taken[held.push.room].remove(number(held))
        self.bench.lane.untried(rest)
        for held in burst[:tried]:
            self.bench.lane.answered(held, self.now)
        self.under_way = [held for held in self.under_way if held not in burst]

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.bench.lane.check(self.now)

    @rule()
    def ask(self) -> None:
        assert self.now <= self.bench.lane.wait_until(self.now) <= self.now + 1
        self.bench.lane.take_relief()

    @invariant()
    def holds(self) -> None:
        for room, taken in self.taken.items():
            assert taken == [name for name in self.offered[room] if name in taken]
        statistics = self.bench.lane.statistics()
        settled = len(self.bench.told)
        assert statistics.batches + settled == sum(map(len, self.offered.values()))
        assert bool(self.bench.lane.has_ready) == (
            len({room for room in "abc" if self._waits(room)} - {held.push.room for held in self.under_way})
            > 0
        )

    def _waits(self, room: str) -> bool:
        over = {*self.bench.told, *self.taken.get(room, [])}
        return any(name not in over for name in self.offered.get(room, []))

    def teardown(self) -> None:
        self.bench.lane.close()
        assert sorted(self.bench.told) == sorted(name for names in self.offered.values() for name in names)
        assert self.bench.lane.statistics().held_bytes == 0


TestLaneMachine = LaneMachine.TestCase
TestLaneMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
