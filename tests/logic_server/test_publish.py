"""The hand-over to the queue: order, tries, batches, deadlines, and what each message is told."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from logic_server.publish import Publisher, PublishOptions, Verdict
from schema.access import Code, Refused, Unavailable
from schema.message import Message
from tests.logic_server.fakes import FakeProducer, message

OPTIONS = PublishOptions(deadline_s=4.0, attempts=4, pause_s=0.1)


def publisher(producer: FakeProducer, options: PublishOptions = OPTIONS) -> Publisher:
    return Publisher(producer, options, jitter=lambda: 1.0)


def told(verdicts: list[Verdict]) -> list[object]:
    return [each.code if isinstance(each, Refused) else type(each) for each in verdicts]


async def test_messages_are_stored_together_in_order_as_the_queue_bodies_they_are() -> None:
    producer = FakeProducer()
    messages = [message(number) for number in range(1, 6)]
    assert await publisher(producer).publish_many(messages) == [None] * 5
    assert producer.stored == [("chat_room", each.encode()) for each in messages]
    assert producer.batches == [5]


async def test_nothing_to_store_is_stored_without_asking() -> None:
    producer = FakeProducer()
    assert await publisher(producer).publish_many([]) == []
    assert producer.batches == []


async def test_partitions_have_topics_and_keep_their_order() -> None:
    producer = FakeProducer()
    options = PublishOptions(partitions=8)
    messages = [message(number, room=f"room {number % 5}") for number in range(1, 41)]
    assert await publisher(producer, options).publish_many(messages) == [None] * 40
    assert len({topic for topic, _ in producer.stored}) > 1
    for room in range(5):
        numbers = [each.origin_seq for each in producer.messages if each.room == f"room {room}"]
        assert numbers == sorted(numbers)


async def test_batches_are_cut_by_size() -> None:
    producer = FakeProducer()
    size = len(message().encode())
    options = PublishOptions(max_batch_bytes=2 * size)
    await publisher(producer, options).publish_many([message() for _ in range(5)])
    assert producer.batches == [2, 2, 1]


async def test_message_over_the_batch_size_goes_alone() -> None:
    producer = FakeProducer()
    options = PublishOptions(max_batch_bytes=10)
    assert await publisher(producer, options).publish_many([message(), message(2)]) == [None, None]
    assert producer.batches == [1, 1]


async def test_queue_that_is_away_for_a_moment_is_tried_again(autojump_clock: MockClock) -> None:
    producer = FakeProducer()
    producer.failures.extend([Unavailable("away"), Unavailable("away")])
    tried = publisher(producer)
    began = trio.current_time()
    assert await tried.publish_many([message(1), message(2)]) == [None, None]
    assert trio.current_time() - began == pytest.approx(0.1 + 0.2)
    assert tried.statistics().retried == 2
    assert tried.statistics().stored == 2


async def test_queue_that_stays_away_is_told_in_its_words(autojump_clock: MockClock) -> None:
    producer = FakeProducer()
    producer.failures.extend([Unavailable("nobody there")] * 4)
    tried = publisher(producer)
    verdicts = await tried.publish_many([message(1), message(2)])
    assert told(verdicts) == [Unavailable, Unavailable]
    assert [each.text for each in verdicts if each is not None] == ["nobody there"] * 2
    assert verdicts[0] is not verdicts[1]
    assert tried.statistics().not_stored == {"unavailable": 2}
    assert producer.stored == []


async def test_second_batch_waits_for_the_tries_of_the_first(autojump_clock: MockClock) -> None:
    """With a batch tried again beside its successor, a room's messages would change places."""
    producer = FakeProducer()
    producer.failures.append(Unavailable("away"))
    options = PublishOptions(max_batch_bytes=1)
    await publisher(producer, options).publish_many([message(1), message(2)])
    assert [each.origin_seq for each in producer.messages] == [1, 2]


async def test_message_without_identity_is_tried_once(autojump_clock: MockClock) -> None:
    producer = FakeProducer()
    producer.failures.append(Unavailable("answer lost"))
    verdicts = await publisher(producer).publish_many([message(1), message(2, origin=0)])
    assert told(verdicts) == [Unavailable, Unavailable]
    assert producer.batches == [2]


async def test_queue_that_does_not_answer_is_a_deadline(autojump_clock: MockClock) -> None:
    producer = FakeProducer()
    producer.gate = trio.Event()
    tried = publisher(producer)
    began = trio.current_time()
    assert told(await tried.publish_many([message()])) == [Unavailable]
    assert trio.current_time() - began == pytest.approx(4.0)
    assert tried.statistics().not_stored == {"deadline": 1}
    assert (tried.statistics().waiting, tried.statistics().waiting_bytes) == (0, 0)


async def test_callers_deadline_counts_where_it_is_sooner(autojump_clock: MockClock) -> None:
    producer = FakeProducer()
    producer.gate = trio.Event()
    began = trio.current_time()
    assert told(await publisher(producer).publish_many([message()], deadline=began + 1)) == [Unavailable]
    assert trio.current_time() - began == pytest.approx(1.0)


async def test_what_comes_too_late_is_not_tried() -> None:
    producer = FakeProducer()
    verdicts = await publisher(producer).publish_many([message()], deadline=trio.current_time() - 1)
    assert told(verdicts) == [Unavailable]
    assert producer.batches == []


async def test_stored_half_stays_stored_when_the_deadline_hits_the_other(autojump_clock: MockClock) -> None:
    """A deadline around the search for a bad body used to be told to those before it as well."""
    producer = FakeProducer()
    good, bad, late = message(1), message(2), message(3)
    producer.poison = bad.encode()
    tried = publisher(producer)
    verdicts: list[Verdict] = []

    async def store() -> None:
        verdicts.extend(await tried.publish_many([good, bad, late]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store)
        while len(producer.stored) < 1:
            await trio.lowlevel.checkpoint()
        producer.gate = trio.Event()
    assert told(verdicts) == [type(None), Code.TOO_LARGE, Unavailable]


@given(st.integers(1, 20), st.data())
async def test_any_body_that_the_queue_never_takes_fails_alone(count: int, data: st.DataObject) -> None:
    producer = FakeProducer()
    messages = [message(number) for number in range(1, count + 1)]
    bad = data.draw(st.integers(0, count - 1))
    producer.poison = messages[bad].encode()
    verdicts = await publisher(producer).publish_many(messages)
    assert told(verdicts) == [Code.TOO_LARGE if place == bad else type(None) for place in range(count)]
    assert producer.messages == [each for place, each in enumerate(messages) if place != bad]


async def test_one_message_raises_what_became_of_it(autojump_clock: MockClock) -> None:
    producer = FakeProducer()
    tried = publisher(producer)
    await tried.publish(message())
    producer.poison = message(2).encode()
    with pytest.raises(Refused):
        await tried.publish(message(2))
    producer.failures.extend([Unavailable("away")] * 4)
    with pytest.raises(Unavailable):
        await tried.publish(message(3))
    statistics = tried.statistics()
    assert statistics.stored == 1
    assert statistics.not_stored == {"refused": 1, "unavailable": 1}


async def test_too_much_under_way_is_refused_at_once_and_the_rest_is_stored() -> None:
    producer = FakeProducer()
    size = len(message().encode())
    tried = publisher(producer, PublishOptions(max_waiting_bytes=2 * size))
    verdicts = await tried.publish_many([message(number) for number in (1, 2, 3)])
    assert told(verdicts) == [type(None), type(None), Unavailable]
    assert tried.statistics().not_stored == {"busy": 1}
    assert tried.statistics().waiting_bytes == 0


async def test_what_is_under_way_is_shown_and_forgotten_when_cancelled() -> None:
    producer = FakeProducer()
    producer.gate = trio.Event()
    tried = publisher(producer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tried.publish_many, [message(1), message(2)])
        await wait_all_tasks_blocked()
        waiting = tried.statistics()
        assert (waiting.waiting, waiting.waiting_bytes) == (2, 2 * len(message().encode()))
        nursery.cancel_scope.cancel()
    assert (tried.statistics().waiting, tried.statistics().waiting_bytes) == (0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"partitions": 0},
        {"attempts": 0},
        {"deadline_s": 0.0},
        {"max_batch_bytes": 0},
        {"max_waiting_bytes": 0},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not options"):
        PublishOptions(**options)  # type: ignore[arg-type]


def test_message_of_a_test_is_what_a_job_worker_reads() -> None:
    assert Message.decode(message(3).encode()) == message(3)
