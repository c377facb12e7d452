from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.queue import Queue
from runtime.queue.memory import MemoryQueue
from schema.access import Unavailable


async def take_all(queue: Queue, channel: str, count: int) -> list[bytes]:
    bodies = []
    async with queue.open_consumer("t", channel, max_in_flight=count) as consumer:
        consumer.resume()
        for _ in range(count):
            delivery = await consumer.receive()
            bodies.append(delivery.body)
            delivery.finish()
    return bodies


async def test_every_channel_gets_every_message_in_order(autojump_clock: MockClock) -> None:
    queue = MemoryQueue()
    async with queue.open_producer() as producer:
        await producer.publish("t", [b"1", b"2"])
        async with queue.open_consumer("t", "a", max_in_flight=1):
            pass
        async with queue.open_consumer("t", "b", max_in_flight=1):
            pass
        await producer.publish("t", [b"3"])
        await producer.publish("t", [])
    assert await take_all(queue, "a", 3) == [b"1", b"2", b"3"]
    assert await take_all(queue, "b", 1) == [b"3"]
    statistics = queue.statistics()
    assert (statistics.stored, statistics.messages, statistics.size_bytes) == (3, 0, 0)


async def test_full_queue_refuses_all_of_a_publish_and_counts_it(autojump_clock: MockClock) -> None:
    queue = MemoryQueue(max_messages=3, max_bytes=100)
    async with queue.open_producer() as producer:
        await producer.publish("t", [b"1", b"2"])
        with pytest.raises(Unavailable, match="2 messages with 2 bytes are waiting already"):
            await producer.publish("t", [b"3", b"4"])
        await producer.publish("t", [b"5"])
        assert queue.statistics().refused == {"full": 1}
        assert await take_all(queue, "c", 3) == [b"1", b"2", b"5"]
        await producer.publish("t", [b"x" * 99])
        with pytest.raises(Unavailable):
            await producer.publish("t", [b"xx"])


@pytest.mark.parametrize(
    ("topic", "bodies"),
    [
        ("", [b"1"]),
        ("a/b", [b"1"]),
        ("t" * 65, [b"1"]),
        ("t\n", [b"1"]),
        ("t", [b"1", b""]),
        ("t", [b"1", b"x" * 11]),
        ("t", [b"1"] * 6),
        ("t", [b"x" * 10] * 3),
    ],
)
async def test_what_could_never_be_stored_is_refused_as_such(topic: str, bodies: list[bytes]) -> None:
    queue = MemoryQueue(max_messages=5, max_bytes=25, max_message_bytes=10)
    async with queue.open_producer() as producer:
        with pytest.raises(ValueError, match=r"not 1 to|at once"):
            await producer.publish(topic, bodies)
    assert queue.statistics().messages == 0


async def test_closed_producer_and_cancelled_publish_store_nothing() -> None:
    queue = MemoryQueue()
    async with queue.open_producer() as producer:
        with trio.CancelScope() as scope:
            scope.cancel()
            await producer.publish("t", [b"1"])
    with pytest.raises(Unavailable, match="closing"):
        await producer.publish("t", [b"1"])
    assert queue.statistics().stored == 0
    assert queue.statistics().refused == {"closing": 1}


async def test_bad_names_are_refused_when_a_consumer_is_opened() -> None:
    queue = MemoryQueue()
    for topic, channel, most in [("t/t", "c", 1), ("t", "", 1), ("t", "c", 0)]:
        with pytest.raises(ValueError, match=r"."):
            async with queue.open_consumer(topic, channel, max_in_flight=most):
                pytest.fail("opened")


async def test_killed_queue_loses_what_is_in_flight_and_goes_on(autojump_clock: MockClock) -> None:
    queue = MemoryQueue()
    queue.publish_nowait("t", [b"lent", b"deferred", b"waits"])
    async with queue.open_consumer("t", "c", max_in_flight=2) as consumer:
        consumer.resume()
        lent = await consumer.receive()
        (await consumer.receive()).requeue(60.0)
        other = await consumer.receive()
        assert other.body == b"waits"
        other.requeue()
        assert queue.lose_in_flight() == 2
        lent.finish()
        assert consumer.statistics().answers == {"requeued": 2, "late": 1}
        assert (await consumer.receive()).body == b"waits"
    assert queue.statistics().lost == 2
    assert queue.statistics().messages == 1


async def test_loss_makes_room_for_a_consumer_that_was_full(autojump_clock: MockClock) -> None:
    queue = MemoryQueue()
    queue.publish_nowait("t", [b"1", b"2"])
    async with (
        queue.open_consumer("t", "c", max_in_flight=1) as consumer,
        trio.open_nursery() as nursery,
    ):
        consumer.resume()
        await consumer.receive()
        received = []

        @nursery.start_soon
        async def wait() -> None:
            received.append((await consumer.receive()).body)

        await wait_all_tasks_blocked()
        queue.lose_in_flight()
        await wait_all_tasks_blocked()
        assert received == [b"2"]
        assert trio.current_time() < 10.0
