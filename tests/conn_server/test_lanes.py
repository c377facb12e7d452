"""What waits for one logic server: batches, window, answers, and what is taken back."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from conn_server.lanes import MAX_BATCH_BYTES, MAX_BATCH_ITEMS, Ask, End, Lane, Outcome, Tally, UnaryLane
from schema.access import Code, Grant, Refused, Unavailable
from schema.proto.logic_pb2 import LinkReply, LinkRequest


class Bench:
    """A lane, and what it has said."""

    def __init__(self, items: int = 1024, size_bytes: int = 1 << 20) -> None:
        self.settled: list[tuple[Ask, Outcome]] = []
        self.woken = 0
        self.tally = Tally()
        window = LinkReply.Window(items=items, bytes=size_bytes)
        self.lane = Lane(window, self.tally, self.settle, self.wake)

    def settle(self, ask: Ask, outcome: Outcome) -> None:
        self.settled.append((ask, outcome))

    def wake(self) -> None:
        self.woken += 1

    def add(self, *asks: Ask) -> None:
        for ask in asks:
            self.lane.add(ask)

    def take(self, now: float = 0.0) -> LinkRequest:
        request = self.lane.take(now)
        assert request is not None
        return request


def publish(number: int = 1, size_bytes: int = 4) -> Ask:
    return Ask(body=number.to_bytes(4, "big") + bytes(size_bytes - 4))


def numbers(request: LinkRequest) -> list[int]:
    return [int.from_bytes(each.body[:4], "big") for each in request.publishes]


def stored(*ids: int) -> LinkReply:
    return LinkReply(stored=ids)


def test_what_has_gathered_leaves_in_one_frame_in_order() -> None:
    bench = Bench()
    bench.add(publish(1), Ask(token="t"), publish(2), publish(3))
    request = bench.take()
    assert numbers(request) == [1, 2, 3]
    assert [each.token for each in request.sign_ins] == ["t"]
    ids = [each.id for each in request.sign_ins] + [each.id for each in request.publishes]
    assert ids == [1, 2, 3, 4]
    assert bench.lane.take(0.0) is None
    assert bench.tally.frames == 1


def test_each_ask_wakes_the_sender() -> None:
    bench = Bench()
    bench.add(publish(1), publish(2))
    assert bench.woken == 2


def test_third_batch_waits_for_an_answer_and_has_grown_meanwhile() -> None:
    bench = Bench()
    for number in (1, 2):
        bench.add(publish(number))
        bench.take()
    bench.add(publish(3), publish(4))
    assert bench.lane.take(0.0) is None
    bench.lane.answered(stored(1))
    assert numbers(bench.take()) == [3, 4]


def test_sign_ins_do_not_wait_for_publishes() -> None:
    bench = Bench()
    for number in (1, 2, 3):
        bench.add(publish(number))
        bench.lane.take(0.0)
    bench.add(Ask(token="t"))
    request = bench.take()
    assert not request.publishes
    assert request.sign_ins[0].token == "t"


def test_answers_settle_their_asks() -> None:
    bench = Bench()
    asks = [*map(publish, (1, 2, 3, 4, 5)), Ask(token="a"), Ask(token="b")]
    bench.add(*asks)
    request = bench.take()
    by_token = {each.token: each.id for each in request.sign_ins}
    first, second, third, fourth, fifth = (each.id for each in request.publishes)
    reply = stored(first)
    reply.not_done.add(id=second, code=413, text="large")
    reply.not_done.add(id=third, code=503, text="later")
    reply.not_done.add(id=fourth, code=777, text="new")
    reply.not_done.add(id=fifth, code=0, text="none")
    reply.granted.add(id=by_token["a"], grant=Grant(1, "1").to_reply())
    reply.not_done.add(id=by_token["b"], code=100, text="无效token")
    bench.lane.answered(reply)
    outcomes = {id(ask): outcome for ask, outcome in bench.settled}
    told = [outcomes[id(ask)] for ask in asks]
    assert told[0] is End.STORED
    assert told[5] == Grant(1, "1")
    refusals = [(each.code, each.text) for each in told if isinstance(each, Refused)]
    assert refusals == [(413, "large"), (400, "new"), (400, "none"), (100, "无效token")]
    assert isinstance(told[2], Unavailable)
    assert bench.lane.is_idle


def test_answer_to_what_was_not_asked_is_counted() -> None:
    bench = Bench()
    bench.add(publish())
    bench.take()
    bench.lane.answered(stored(1, 1, 99))
    assert len(bench.settled) == 1
    assert bench.tally.strays == 2


def test_window_bounds_items() -> None:
    bench = Bench(items=3)
    bench.add(*map(publish, (1, 2, 3, 4, 5)))
    assert numbers(bench.take()) == [1, 2, 3]
    assert bench.lane.take(0.0) is None
    bench.lane.answered(stored(1, 2))
    assert numbers(bench.take()) == [4, 5]


def test_window_bounds_bytes_without_changing_the_order() -> None:
    bench = Bench(size_bytes=100)
    bench.add(publish(1, 60), publish(2, 60), publish(3, 10))
    assert numbers(bench.take()) == [1]
    assert bench.lane.take(0.0) is None
    bench.lane.answered(stored(1))
    assert numbers(bench.take()) == [2, 3]


def test_ask_larger_than_the_window_is_refused_and_holds_nobody_up() -> None:
    bench = Bench(size_bytes=100)
    bench.add(publish(1, 101), publish(2))
    (refused,) = bench.settled
    assert isinstance(refused[1], Refused)
    assert refused[1].code is Code.TOO_LARGE
    assert numbers(bench.take()) == [2]


def test_batch_is_bounded_in_items_and_bytes() -> None:
    bench = Bench()
    bench.add(*map(publish, range(MAX_BATCH_ITEMS + 1)))
    assert len(bench.take().publishes) == MAX_BATCH_ITEMS
    bench = Bench(size_bytes=4 * MAX_BATCH_BYTES)
    bench.add(*(publish(number, MAX_BATCH_BYTES // 2) for number in range(5)))
    assert len(bench.take().publishes) == 2


def test_ask_that_was_given_up_before_it_left_is_forgotten() -> None:
    bench = Bench()
    asks = [publish(1), publish(2), publish(3)]
    bench.add(*asks)
    asks[1].given_up = True
    assert numbers(bench.take()) == [1, 3]
    assert bench.settled == [(asks[1], End.FORGOTTEN)]


def test_frame_of_nothing_but_what_was_given_up_is_none() -> None:
    bench = Bench()
    ask = publish()
    bench.add(ask)
    ask.given_up = True
    assert bench.lane.take(0.0) is None
    assert bench.lane.is_idle


def test_oldest_unanswered_batch_is_known() -> None:
    bench = Bench()
    assert bench.lane.oldest() is None
    bench.add(publish(1))
    bench.take(5.0)
    bench.add(Ask(token="t"))
    bench.take(3.0)
    assert bench.lane.oldest() == 3.0
    bench.lane.answered(LinkReply(granted=[LinkReply.Granted(id=2)]))
    assert bench.lane.oldest() == 5.0
    bench.lane.answered(stored(1))
    assert bench.lane.oldest() is None


def test_lost_link_gives_back_everything_in_order() -> None:
    bench = Bench(items=2)
    asks = [publish(1), publish(2), publish(3)]
    bench.add(*asks)
    bench.take()
    assert (bench.lane.unanswered, bench.lane.queued) == (2, 1)
    assert bench.lane.take_back() == asks
    assert bench.lane.is_idle
    bench.lane.answered(stored(1))
    assert bench.settled == []


def test_retired_link_keeps_what_is_under_way() -> None:
    bench = Bench(items=1)
    asks = [publish(1), publish(2)]
    bench.add(*asks)
    bench.take()
    assert bench.lane.take_queued() == asks[1:]
    bench.lane.answered(stored(1))
    assert bench.settled == [(asks[0], End.STORED)]


@given(
    st.integers(1, 6),
    st.integers(12, 40),
    st.lists(st.one_of(st.integers(4, 12), st.none(), st.just(-1)), max_size=80),
)
def test_any_run_keeps_order_and_window_and_settles_each_ask_once(
    items: int, size_bytes: int, steps: list[int | None]
) -> None:
    """A number adds a publish of that size, None sends a frame, -1 answers the oldest ask."""
    bench = Bench(items=items, size_bytes=size_bytes)
    added: list[Ask] = []
    sent: list[tuple[int, int, bytes]] = []
    answered = 0
    for step in steps:
        if step is None:
            frame = bench.lane.take(0.0)
            sent += [(each.id, len(each.body), each.body) for each in frame.publishes] if frame else []
        elif step > 0:
            added.append(publish(len(added), step))
            bench.add(added[-1])
        elif answered < len(sent):
            bench.lane.answered(stored(sent[answered][0]))
            answered += 1
        under_way = sent[answered:]
        assert len(under_way) <= items
        assert sum(size for _, size, _ in under_way) <= size_bytes
    assert [body for _, _, body in sent] == [ask.body for ask in added[: len(sent)]]
    back = bench.lane.take_back()
    assert [ask for ask, _ in bench.settled] + back == added


# -- a Go logic server's


class UnaryBench:
    def __init__(self, width: int = 4) -> None:
        self.settled: list[tuple[Ask, Outcome]] = []
        self.tally = Tally()
        self.lane = UnaryLane(width, self.tally, self.settle, lambda: None)

    def settle(self, ask: Ask, outcome: Outcome) -> None:
        self.settled.append((ask, outcome))


def test_group_keeps_to_one_caller() -> None:
    bench = UnaryBench()
    asks = [Ask(body=b"x", group=5) for _ in range(3)]
    for ask in asks:
        bench.lane.add(ask)
    assert [bench.lane.take(number) for number in range(4)] == [None, asks[0], None, None]
    bench.lane.answered(1, End.STORED)
    assert bench.lane.take(1) is asks[1]


def test_sign_ins_go_to_the_callers_by_turn() -> None:
    bench = UnaryBench()
    for number in range(8):
        bench.lane.add(Ask(token=str(number)))
    taken = [bench.lane.take(number) for number in range(4)]
    assert all(ask is not None for ask in taken)
    assert bench.lane.queued == bench.lane.unanswered == 4
    assert bench.tally.calls == 4


def test_caller_passes_over_what_was_given_up() -> None:
    bench = UnaryBench(width=1)
    gone, ask = Ask(token="a"), Ask(token="b")
    bench.lane.add(gone)
    bench.lane.add(ask)
    gone.given_up = True
    assert bench.lane.take(0) is ask
    assert bench.settled == [(gone, End.FORGOTTEN)]


def test_publish_under_way_to_a_lost_go_server_is_left_to_its_sender() -> None:
    bench = UnaryBench(width=2)
    under_way, behind, sign_in = Ask(body=b"x", group=0), Ask(body=b"y", group=0), Ask(token="t")
    for ask in (under_way, behind, sign_in):
        bench.lane.add(ask)
    assert bench.lane.take(0) is under_way
    assert bench.lane.take(1) is sign_in
    assert bench.lane.take_back() == [sign_in, behind]
    ((ask, outcome),) = bench.settled
    assert ask is under_way
    assert isinstance(outcome, Unavailable)
    assert bench.lane.is_idle


def test_retired_go_server_answers_what_is_under_way() -> None:
    bench = UnaryBench(width=1)
    under_way, behind = Ask(token="a"), Ask(token="b")
    bench.lane.add(under_way)
    bench.lane.add(behind)
    bench.lane.take(0)
    assert bench.lane.take_queued() == [behind]
    assert not bench.lane.is_idle
    bench.lane.answered(0, Grant(1, "1"))
    assert bench.settled == [(under_way, Grant(1, "1"))]
    assert bench.lane.is_idle


@pytest.mark.parametrize(("token", "size_bytes"), [("abc", 3), ("聊天", 6)])
def test_size_of_a_sign_in_is_its_tokens_in_bytes(token: str, size_bytes: int) -> None:
    assert Ask(token=token).size_bytes == size_bytes
