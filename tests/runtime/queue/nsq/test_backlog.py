"""Calls gather into batches, in order, and come back to where they were."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings, strategies as st

from runtime.queue.nsq.backlog import MAX_BATCH_CALLS, Backlog, Call


def ignore(_: Exception | None) -> None: ...


def call(number: int, topic: str = "t", size: int = 6) -> Call:
    return Call(number, topic, [b"x" * (size - 4)], ignore)


def everywhere(_: str) -> bool:
    return True


def drain(backlog: Backlog, is_ours: Callable[[str], bool] = everywhere) -> list[list[int]]:
    batches = []
    while calls := backlog.take(is_ours):
        batches.append([c.number for c in calls])
    return batches


def filled(*calls: Call, max_batch_bytes: int = 4 + 18) -> Backlog:
    backlog = Backlog(max_batch_bytes)
    for one in calls:
        backlog.add(one)
    return backlog


def test_batch_holds_what_fits() -> None:
    assert drain(filled(*(call(n) for n in range(7)))) == [[0, 1, 2], [3, 4, 5], [6]]


def test_batch_holds_no_more_calls_than_may_wait_for_one_answer() -> None:
    backlog = filled(*(call(n) for n in range(MAX_BATCH_CALLS + 1)), max_batch_bytes=1 << 20)
    assert list(map(len, drain(backlog))) == [MAX_BATCH_CALLS, 1]


def test_topics_take_turns_and_do_not_mix() -> None:
    backlog = filled(*(call(n, "busy") for n in range(6)), call(6, "quiet"))
    assert drain(backlog) == [[0, 1, 2], [6], [3, 4, 5]]


def test_topic_of_another_nsqd_stays() -> None:
    backlog = filled(call(1, "a"), call(2, "b"))
    assert drain(backlog, lambda topic: topic == "b") == [[2]]
    assert drain(backlog) == [[1]]


def test_call_that_was_given_up_is_not_sent() -> None:
    calls = [call(n) for n in range(4)]
    backlog = filled(*calls)
    calls[0].given_up = calls[2].given_up = True
    assert drain(backlog) == [[1, 3]]


def test_line_of_given_up_calls_hides_no_other_topic() -> None:
    gone = call(1, "a")
    gone.given_up = True
    assert drain(filled(gone, call(2, "b"))) == [[2]]


def test_refused_calls_go_again_one_by_one_before_what_came_later() -> None:
    backlog = filled(*(call(n) for n in range(3)))
    refused = backlog.take(everywhere)
    backlog.add(call(3))
    backlog.add(call(4))
    for one in refused:
        one.alone = True
    backlog.put_back(refused)
    assert drain(backlog) == [[0], [1], [2], [3, 4]]


@settings(max_examples=30)
@given(st.lists(st.integers(5, 18), max_size=20), st.data())
def test_order_survives_any_coming_back(sizes: list[int], data: st.DataObject) -> None:
    backlog = filled(*(call(n, size=size) for n, size in enumerate(sizes)))
    sent: list[int] = []
    under_way: list[list[Call]] = []
    while True:
        while calls := backlog.take(everywhere):
            under_way.append(calls)
        if not under_way:
            break
        stored = data.draw(st.integers(1, len(under_way)))
        for calls in under_way[:stored]:
            sent += [one.number for one in calls]
        for calls in under_way[stored:]:
            backlog.put_back(calls)
        under_way = []
    assert sent == list(range(len(sizes)))


def test_taking_all_forgets_all() -> None:
    backlog = filled(call(1, "a"), call(2, "b"))
    assert [one.number for one in backlog.take_all()] == [1, 2]
    assert drain(backlog) == []
