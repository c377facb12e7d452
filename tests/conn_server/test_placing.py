"""Which logic server is asked: turn, groups and their order, through every way in which links come and go."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from random import Random

from hypothesis import given, strategies as st

from conn_server.lanes import Ask, End, Outcome
from conn_server.placing import GROUPS, MAX_MOVES, Placing, ranked
from schema.access import Unavailable


class FakeLane:
    """A lane that sends when it is told to; what has been sent is under way until it is answered."""

    def __init__(self, placing: Placing) -> None:
        self.queue: deque[Ask] = deque()
        self.under_way: deque[Ask] = deque()
        self._placing = placing

    def add(self, ask: Ask) -> None:
        self.queue.append(ask)

    def send(self) -> None:
        while self.queue and self.queue[0].given_up:
            self._placing.settle(self.queue.popleft(), End.FORGOTTEN, 0.0)
        if self.queue:
            self.under_way.append(self.queue.popleft())

    def answer(self, outcome: Outcome = End.STORED) -> None:
        if self.under_way:
            self._placing.settle(self.under_way.popleft(), outcome, 0.0)

    def lose(self, address: str) -> None:
        self._placing.lane_lost(address, self, 0.0)

    def take_queued(self) -> list[Ask]:
        asks = list(self.queue)
        self.queue.clear()
        return asks

    def take_back(self) -> list[Ask]:
        asks = list(self.under_way)
        self.under_way.clear()
        return asks + self.take_queued()

    @property
    def queued(self) -> int:
        return len(self.queue)

    @property
    def unanswered(self) -> int:
        return len(self.under_way)

    @property
    def is_idle(self) -> bool:
        return not self.queue and not self.under_way


def alphabetical(_: str, addresses: Iterable[str]) -> list[str]:
    """Rank: the first in the alphabet is preferred by everybody."""
    return sorted(addresses)


class Bench:
    """A placing and what it has told."""

    def __init__(self) -> None:
        self.told: list[tuple[Ask, Outcome]] = []
        self.placing = Placing(alphabetical, lambda ask, outcome: self.told.append((ask, outcome)))

    def open(self, address: str) -> FakeLane:
        lane = FakeLane(self.placing)
        self.placing.lane_opened(address, lane, 0.0)
        return lane

    def publish(self, group: int = 0) -> Ask:
        ask = Ask(body=b"x", group=group)
        self.placing.place(ask, 0.0)
        return ask


def test_sign_ins_go_to_each_by_turn() -> None:
    bench = Bench()
    lanes = [bench.open(address) for address in "abc"]
    for _ in range(6):
        bench.placing.place(Ask(token="t"), 0.0)
    assert [lane.queued for lane in lanes] == [2, 2, 2]


def test_publishes_of_a_group_go_to_the_one_it_prefers() -> None:
    bench = Bench()
    first, second = bench.open("a"), bench.open("b")
    asks = [bench.publish() for _ in range(3)]
    assert list(first.queue) == asks
    assert second.is_idle


def test_who_finds_nobody_waits_in_order_for_the_first_that_opens() -> None:
    bench = Bench()
    asks = [bench.publish() for _ in range(3)]
    asks[1].given_up = True
    assert bench.placing.homeless == 3
    lane = bench.open("a")
    assert list(lane.queue) == [asks[0], asks[2]]
    assert bench.placing.homeless == 0


def test_who_finds_nobody_is_turned_away_after_a_while() -> None:
    bench = Bench()
    early, late = Ask(token="t"), Ask(body=b"x")
    bench.placing.place(early, 1.0)
    bench.placing.place(late, 2.0)
    bench.placing.turn_away(0.5)
    assert bench.told == []
    bench.placing.turn_away(1.5)
    ((ask, outcome),) = bench.told
    assert ask is early
    assert isinstance(outcome, Unavailable)
    bench.placing.turn_away(2.0)
    assert bench.placing.homeless == 0


def test_group_moves_to_a_better_lane_when_nothing_of_it_is_unanswered() -> None:
    bench = Bench()
    second = bench.open("b")
    bench.publish()
    second.send()
    first = bench.open("a")
    behind = [bench.publish(), bench.publish()]
    assert first.is_idle
    assert second.queued == 0
    second.answer()
    assert list(first.queue) == behind


def test_group_without_anything_unanswered_moves_at_once() -> None:
    bench = Bench()
    bench.open("b")
    first = bench.open("a")
    ask = bench.publish()
    assert list(first.queue) == [ask]


def test_lost_link_is_asked_again_elsewhere_in_order_before_what_came_later() -> None:
    bench = Bench()
    first, second = bench.open("a"), bench.open("b")
    asks = [bench.publish() for _ in range(4)]
    first.send()
    first.send()
    bench.placing.lane_lost("a", first, 0.0)
    asks.append(bench.publish())
    assert list(second.queue) == asks
    assert (bench.placing.moved, bench.placing.lost) == (4, 1)


def test_what_was_held_stays_behind_what_comes_back() -> None:
    bench = Bench()
    second = bench.open("b")
    asks = [bench.publish()]
    second.send()
    first = bench.open("a")
    asks += [bench.publish(), bench.publish()]
    bench.placing.lane_lost("b", second, 0.0)
    assert list(first.queue) == asks


def test_lost_link_without_another_one_waits() -> None:
    bench = Bench()
    lane = bench.open("a")
    asks = [bench.publish(), bench.publish()]
    lane.send()
    bench.placing.lane_lost("a", lane, 0.0)
    assert bench.placing.homeless == 2
    assert list(bench.open("a").queue) == asks


def test_ask_that_goes_down_with_link_after_link_is_not_tried_for_ever() -> None:
    bench = Bench()
    ask = bench.publish()
    for _ in range(MAX_MOVES + 1):
        lane = bench.open("a")
        lane.send()
        bench.placing.lane_lost("a", lane, 0.0)
    ((told, outcome),) = bench.told
    assert told is ask
    assert isinstance(outcome, Unavailable)


def test_what_was_given_up_does_not_come_back() -> None:
    bench = Bench()
    lane = bench.open("a")
    ask = bench.publish()
    ask.given_up = True
    bench.placing.lane_lost("a", lane, 0.0)
    assert bench.placing.homeless == 0
    assert bench.told == [(ask, End.FORGOTTEN)]


def test_retired_lane_answers_what_is_under_way_and_the_rest_waits_for_that() -> None:
    bench = Bench()
    first, second = bench.open("a"), bench.open("b")
    bench.publish()
    behind = bench.publish()
    first.send()
    bench.placing.lane_retired("a", first, 0.0)
    later = bench.publish()
    assert second.is_idle
    first.answer()
    assert list(second.queue) == [behind, later]
    assert bench.placing.lost == 0


def test_what_came_after_the_last_lane_retired_stays_behind_what_is_lost_with_it() -> None:
    """It waited for a lane at once, and was there before what came back."""
    bench = Bench()
    last = bench.open("a")
    asks = [bench.publish(), bench.publish()]
    last.send()
    last.send()
    bench.placing.lane_retired("a", last, 0.0)
    asks.append(bench.publish())
    bench.placing.lane_lost("a", last, 0.0)
    assert list(bench.open("b").queue) == asks


def test_what_comes_when_no_lane_is_open_stays_behind_what_is_held() -> None:
    bench = Bench()
    second = bench.open("b")
    bench.publish()
    second.send()
    first = bench.open("a")
    held = bench.publish()
    bench.placing.lane_retired("a", first, 0.0)
    bench.placing.lane_retired("b", second, 0.0)
    later = bench.publish()
    second.answer()
    assert bench.placing.homeless == 2
    assert list(bench.open("c").queue) == [held, later]


def test_end_of_a_retired_lane_is_no_loss() -> None:
    bench = Bench()
    lane = bench.open("a")
    bench.placing.lane_retired("a", lane, 0.0)
    bench.placing.lane_lost("a", lane, 0.0)
    assert bench.placing.lost == 0
    assert not bench.placing.lanes


def test_old_lane_that_ends_late_does_not_take_the_new_one_away() -> None:
    bench = Bench()
    old = bench.open("a")
    bench.placing.lane_retired("a", old, 0.0)
    new = bench.open("a")
    bench.placing.lane_lost("a", old, 0.0)
    assert bench.placing.lanes == {"a": new}


class Run:
    """Logic servers that come and go as a list of steps says, and what was sent to them."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.open: dict[str, FakeLane] = {}
        self.retired: list[tuple[str, FakeLane]] = []
        self.asks: list[Ask] = []

    def step(self, what: str, address: str, group: int) -> None:
        lane = self.open.get(address)
        if what == "publish":
            self.asks.append(self.bench.publish(group))
        elif what == "give up":
            for ask in self.asks[-2:-1]:
                ask.given_up = True
        elif lane is None:
            self.step_without(what, address)
        elif what == "send":
            self.send(lane)
        elif what == "answer":
            lane.answer()
        elif what == "retire":
            self.retired.append((address, self.open.pop(address)))
            self.bench.placing.lane_retired(address, lane, 0.0)
        elif what == "lose":
            self.open.pop(address).lose(address)

    def step_without(self, what: str, address: str) -> None:
        """Go on with the oldest of the retired lanes, where no lane is open."""
        if what == "open":
            self.open[address] = self.bench.open(address)
        elif self.retired:
            old_address, retired = self.retired[0]
            if what == "answer":
                retired.answer()
            elif what == "lose":
                del self.retired[0]
                retired.lose(old_address)

    def send(self, lane: FakeLane) -> None:
        """Send one; all that came before it in its group is done, or under way on the same lane."""
        before = len(lane.under_way)
        lane.send()
        if len(lane.under_way) == before:
            return
        ask = lane.under_way[-1]
        settled = {told for told, _ in self.bench.told}
        group = [each for each in self.asks if each.group == ask.group and each not in settled]
        assert [each for each in lane.under_way if each.group == ask.group] == group[: group.index(ask) + 1]

    @property
    def placed(self) -> int:
        placing = self.bench.placing
        return placing.homeless + placing.held + placing.queued + placing.unanswered

    def finish(self) -> None:
        """Let one server stand, and all answer."""
        if not self.open:
            self.open["a"] = self.bench.open("a")
        lanes = (*(lane for _, lane in self.retired), *self.open.values())
        while not all(lane.is_idle for lane in lanes):
            for lane in lanes:
                self.send(lane)
                lane.answer()


STEPS = ("publish", "publish", "send", "answer", "open", "retire", "lose", "give up")


@given(st.integers(0, 2**32))
def test_any_coming_and_going_keeps_each_groups_order_and_settles_each_ask_once(seed: int) -> None:
    """From a seed, because lists of steps are too short to leave a group without any lane more than once."""
    draw, run = Random(seed), Run()
    for _ in range(200):
        run.step(draw.choice(STEPS), draw.choice("ab"), draw.randrange(2))
        assert run.placed == len(run.asks) - len(run.bench.told)
    run.finish()
    settled = [ask for ask, _ in run.bench.told]
    assert sorted(map(id, settled)) == sorted(map(id, run.asks))


def test_groups_are_many_more_than_servers() -> None:
    assert GROUPS >= 64


@given(st.text(max_size=20), st.sets(st.text(min_size=1, max_size=20), min_size=2, max_size=8))
def test_ranking_of_the_others_does_not_change_when_one_goes(key: str, addresses: set[str]) -> None:
    order = ranked(key, addresses)
    assert sorted(order) == sorted(addresses)
    assert ranked(key, reversed(order)) == order
    for gone in addresses:
        assert ranked(key, addresses - {gone}) == [address for address in order if address != gone]
