from __future__ import annotations

from collections import Counter
from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.queue.memory_store import Channel, Loan, Message, Store

TIMEOUT_S = 10.0


def new_store(max_messages: int = 1000, max_bytes: int = 1000) -> Store:
    return Store(max_messages=max_messages, max_bytes=max_bytes, msg_timeout_s=TIMEOUT_S)


def lend(channel: Channel, now: float = 0.0, holder: object = "holder") -> Loan:
    loan = channel.lend(holder, now)
    assert loan is not None
    return loan


def take_all(channel: Channel, now: float) -> list[tuple[bytes, int]]:
    taken = []
    while (loan := channel.lend("all", now)) is not None:
        channel.finish(loan)
        taken.append((loan.message.body, loan.message.attempts))
    return taken


def test_first_channel_gets_what_was_published_before_and_the_next_does_not() -> None:
    store = new_store()
    store.publish("t", [b"1"], 0.0)
    store.publish("t", [b"2"], 0.0)
    first, second = store.channel("t", "a"), store.channel("t", "b")
    store.publish("t", [b"3"], 0.0)
    assert take_all(first, 0.0) == [(b"1", 1), (b"2", 1), (b"3", 1)]
    assert take_all(second, 0.0) == [(b"3", 1)]
    assert store.channel("t", "a") is first


def test_bodies_are_stored_for_every_channel_or_for_none() -> None:
    store = new_store(max_messages=5)
    channels = [store.channel("t", "a"), store.channel("t", "b")]
    assert store.publish("t", [b"1", b"2"], 0.0) == channels
    assert store.publish("t", [b"3"], 0.0) is None
    assert store.budget.messages == 4
    assert [len(channel.queue) for channel in channels] == [2, 2]


def test_bytes_are_bounded_as_well_and_come_free_with_a_finish() -> None:
    store = new_store(max_bytes=10)
    channel = store.channel("t", "a")
    assert store.publish("t", [b"12345", b"67890"], 0.0)
    assert store.publish("t", [b"!"], 0.0) is None
    loan = lend(channel)
    assert store.publish("t", [b"!"], 0.0) is None
    channel.finish(loan)
    assert store.publish("t", [b"!"], 0.0)
    assert (store.budget.messages, store.budget.size_bytes) == (2, 6)


def test_refused_topic_without_a_channel_leaves_no_trace() -> None:
    store = new_store(max_bytes=1)
    assert store.publish("t", [b"12"], 0.0) is None
    assert list(store.channels()) == []


def test_loan_that_is_given_back_in_the_moment_of_its_deadline_is_given_back_once() -> None:
    channel = new_store().channel("t", "a")
    for body in (b"1", b"2"):
        channel.put(Message(body))
    first, second = lend(channel), lend(channel)
    # The clock has gone on since the holder was told that its answer would count.
    channel.requeue(second, TIMEOUT_S)
    assert channel.timed_out == 1
    assert [body for body, _ in take_all(channel, TIMEOUT_S)] == [first.message.body, second.message.body]


def test_timed_out_loans_and_delays_go_to_the_tail_in_the_order_of_their_times() -> None:
    store = new_store()
    channel = store.channel("t", "a")
    store.publish("t", [b"out", b"late", b"soon", b"after"], 0.0)
    lend(channel, 0.0)  # out: due at 10
    channel.requeue(lend(channel, 0.0), 0.0, 12.0)
    channel.requeue(lend(channel, 0.0), 0.0, 3.0)
    assert channel.due == 3.0
    # Nobody looks in between: what is published at 11 still comes behind what was due before.
    store.publish("t", [b"11"], 11.0)
    assert take_all(channel, 20.0) == [(b"after", 1), (b"soon", 2), (b"out", 2), (b"11", 1), (b"late", 2)]
    assert channel.timed_out == 1
    assert channel.due == inf


def test_touch_starts_the_time_anew_and_is_passed_by_others() -> None:
    store = new_store()
    channel = store.channel("t", "a")
    store.publish("t", [b"1", b"2"], 0.0)
    first, second = lend(channel, 0.0), lend(channel, 1.0)
    channel.touch(first, 9.0)
    assert channel.due == 11.0
    channel.settle(11.0)
    assert not channel.is_open(second, 11.0)
    assert channel.is_open(first, 18.9)
    assert not channel.is_open(first, 19.0)


def test_what_is_in_flight_can_be_lost_and_what_waits_stays() -> None:
    store = new_store()
    channel = store.channel("t", "a")
    store.publish("t", [b"loan", b"deferred", b"waits"], 0.0)
    loan = lend(channel, holder="me")
    channel.requeue(lend(channel), 0.0, 5.0)
    assert channel.lose_in_flight() == 2
    assert not channel.is_open(loan, 0.0)
    assert channel.held["me"] == 0
    assert store.budget.messages == 1
    assert take_all(channel, 20.0) == [(b"waits", 1)]


class StoreMachine(RuleBasedStateMachine):
    """Two channels of one topic: each ends up with every message, and the counts are right meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.store = new_store(max_messages=12)
        self.channels = [self.store.channel("t", name) for name in "ab"]
        self.expected: list[Counter[bytes]] = [Counter(), Counter()]
        self.attempts: list[Counter[bytes]] = [Counter(), Counter()]
        self.loans: list[tuple[int, Loan]] = []
        self.number = 0

    @rule(count=st.integers(1, 4))
    def publish(self, count: int) -> None:
        bodies = [b"%d" % number for number in range(self.number, self.number + count)]
        if self.store.publish("t", bodies, self.now) is None:
            assert self.store.budget.messages + 2 * count > 12
        else:
            self.number += count
            for expected in self.expected:
                expected.update(bodies)

    @rule(which=st.integers(0, 1), holder=st.sampled_from("xy"))
    def lend(self, which: int, holder: str) -> None:
        loan = self.channels[which].lend(holder, self.now)
        if loan is not None:
            self.attempts[which][loan.message.body] += 1
            assert loan.message.attempts == self.attempts[which][loan.message.body]
            self.loans.append((which, loan))

    @precondition(lambda self: self.loans)
    @rule(data=st.data(), answer=st.sampled_from(["finish", "requeue", "defer", "touch", "strand"]))
    def answer(self, data: st.DataObject, answer: str) -> None:
        which, loan = data.draw(st.sampled_from(self.loans))
        channel = self.channels[which]
        if not channel.is_open(loan, self.now):
            self.loans.remove((which, loan))
        elif answer == "finish":
            channel.finish(loan)
            self.expected[which][loan.message.body] -= 1
        elif answer == "touch":
            channel.touch(loan, self.now)
            assert loan.deadline == self.now + TIMEOUT_S
        elif answer == "strand":
            channel.strand(loan)
        else:
            channel.requeue(loan, self.now, 7.0 if answer == "defer" else 0.0)

    @rule(step_s=st.sampled_from([0.5, 3.0, 11.0]))
    def wait(self, step_s: float) -> None:
        self.now += step_s

    @invariant()
    def counts_are_right(self) -> None:
        held = 0
        for channel, expected in zip(self.channels, self.expected, strict=True):
            there = len(channel.queue) + channel.on_loan + channel.deferred
            assert there == expected.total()
            assert sum(channel.held.values()) == channel.on_loan
            held += there
        assert self.store.budget.messages == held <= 12

    def teardown(self) -> None:
        for channel, expected in zip(self.channels, self.expected, strict=True):
            left = Counter(body for body, _ in take_all(channel, self.now + 100.0))
            assert left == +expected
        assert self.store.budget.size_bytes == 0


TestStoreMachine = StoreMachine.TestCase
