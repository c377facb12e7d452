from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.queue.memory import Faults, MemoryQueue
from runtime.queue.memory_consumer import MemoryConsumer, MemoryDelivery


def queue_of(*bodies: bytes, faults: Faults | None = None, msg_timeout_s: float = 10.0) -> MemoryQueue:
    queue = MemoryQueue(msg_timeout_s=msg_timeout_s, faults=faults or Faults())
    queue.publish_nowait("t", bodies)
    return queue


async def receive(consumer: MemoryConsumer, count: int) -> list[MemoryDelivery]:
    return [await consumer.receive() for _ in range(count)]


async def assert_nothing_comes(consumer: MemoryConsumer) -> None:
    """A consumer gets nothing without the time going on."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def give_up() -> None:
                await wait_all_tasks_blocked()
                scope.cancel()

            pytest.fail(f"received {(await consumer.receive()).body!r}")
    assert scope.cancelled_caught


async def test_consumer_starts_paused_and_what_is_on_loan_outlives_a_pause(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1", b"2")
    async with queue.open_consumer("t", "c", max_in_flight=5) as consumer:
        await assert_nothing_comes(consumer)
        consumer.resume()
        first = await consumer.receive()
        consumer.pause()
        await assert_nothing_comes(consumer)
        assert first.is_open
        first.finish()
        consumer.resume()
        (await consumer.receive()).finish()
        assert consumer.statistics().answers == {"finished": 2}


async def test_waiting_receiver_is_woken_by_a_publish_and_by_a_resume(autojump_clock: MockClock) -> None:
    queue = queue_of()
    received = []
    async with (
        queue.open_consumer("t", "c", max_in_flight=5) as consumer,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def take_two() -> None:
            for delivery in await receive(consumer, 2):
                received.append(delivery.body)
                delivery.finish()

        queue.publish_nowait("t", [b"1"])
        await wait_all_tasks_blocked()
        assert received == []
        consumer.resume()
        await wait_all_tasks_blocked()
        queue.publish_nowait("t", [b"2"])
        await wait_all_tasks_blocked()
        assert received == [b"1", b"2"]


async def test_consumer_never_holds_more_than_it_asked_for(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1", b"2", b"3")
    async with queue.open_consumer("t", "c", max_in_flight=2) as consumer:
        consumer.resume()
        first, second = await receive(consumer, 2)
        await assert_nothing_comes(consumer)
        first.finish()
        third = await consumer.receive()
        assert third.body == b"3"
        second.requeue()
        assert (await consumer.receive()).attempts == 2
        await assert_nothing_comes(consumer)


async def test_unanswered_delivery_comes_again_at_the_tail_on_time(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1", b"2")
    async with queue.open_consumer("t", "c", max_in_flight=1) as consumer:
        consumer.resume()
        first = await consumer.receive()
        started = trio.current_time()
        second = await consumer.receive()  # as soon as the first has timed out
        assert trio.current_time() - started == 10.0
        assert second.body == b"2"
        first.finish()
        second.finish()
        again = await consumer.receive()
        assert (again.body, again.attempts) == (b"1", 2)
        again.finish()
        assert consumer.statistics().answers == {"late": 1, "finished": 2}
        assert consumer.statistics().redelivered == 1
    assert queue.statistics().timed_out == 1


async def test_delay_of_a_requeue_is_waited_for(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1")
    async with queue.open_consumer("t", "c", max_in_flight=1) as consumer:
        consumer.resume()
        (await consumer.receive()).requeue(3.0)
        assert queue.statistics().deferred == 1
        started = trio.current_time()
        (await consumer.receive()).finish()
        assert trio.current_time() - started == 3.0


async def test_second_answer_changes_nothing_and_is_counted(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1")
    async with queue.open_consumer("t", "c", max_in_flight=1) as consumer:
        consumer.resume()
        delivery = await consumer.receive()
        delivery.touch()
        delivery.requeue()
        for answer in (delivery.finish, delivery.requeue, delivery.touch):
            answer()
        again = await consumer.receive()
        again.finish()
        again.finish()
        assert consumer.statistics().answers == {"touched": 1, "requeued": 1, "repeated": 4, "finished": 1}
    assert queue.statistics().messages == 0


async def test_touched_delivery_lives_longer(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1")
    async with queue.open_consumer("t", "c", max_in_flight=1) as consumer:
        consumer.resume()
        delivery = await consumer.receive()
        await trio.sleep(9)
        delivery.touch()
        await trio.sleep(9)
        assert delivery.is_open
        delivery.finish()
    assert queue.statistics().timed_out == 0


async def test_two_consumers_of_a_channel_share_and_wait_for_each_others_loans(
    autojump_clock: MockClock,
) -> None:
    queue = queue_of(b"1", b"2")
    async with (
        queue.open_consumer("t", "c", max_in_flight=5) as one,
        queue.open_consumer("t", "c", max_in_flight=5) as other,
    ):
        one.resume()
        other.resume()
        kept = await one.receive()
        (await other.receive()).finish()
        again = await other.receive()  # which nobody else would wake up for it
        assert trio.current_time() - kept._loan.deadline == 0.0
        assert (again.body, again.attempts) == (b"1", 2)
        again.finish()


async def test_closing_waits_for_answers_and_gives_back_the_rest(autojump_clock: MockClock) -> None:
    queue = queue_of(b"answered", b"kept", b"waits")
    async with trio.open_nursery() as nursery:
        async with queue.open_consumer("t", "c", max_in_flight=2) as consumer:
            consumer.resume()
            answered, kept = await receive(consumer, 2)

            @nursery.start_soon
            async def answer_later() -> None:
                await trio.sleep(2)
                answered.finish()
                with pytest.raises(trio.ClosedResourceError):
                    await consumer.receive()

            started = trio.current_time()
        assert trio.current_time() - started == 4.0
        kept.finish()
        assert consumer.statistics().answers == {"finished": 1, "returned": 1, "late": 1}
    async with queue.open_consumer("t", "c", max_in_flight=2) as successor:
        successor.resume()
        rest = await receive(successor, 2)
        assert [(delivery.body, delivery.attempts) for delivery in rest] == [(b"waits", 1), (b"kept", 2)]


async def test_closing_ends_when_everything_is_answered(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1")
    async with trio.open_nursery() as nursery:
        async with queue.open_consumer("t", "c", max_in_flight=2) as consumer:
            consumer.resume()
            delivery = await consumer.receive()

            @nursery.start_soon
            async def answer_later() -> None:
                await trio.sleep(1)
                delivery.finish()

            started = trio.current_time()
        assert trio.current_time() - started == 1.0


async def test_cancelled_consumer_gives_back_at_once(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1")
    with trio.CancelScope() as scope:
        async with queue.open_consumer("t", "c", max_in_flight=2) as consumer:
            consumer.resume()
            await consumer.receive()
            started = trio.current_time()
            scope.cancel()
            await trio.sleep_forever()
    assert trio.current_time() == started
    assert (queue.statistics().waiting, queue.statistics().on_loan) == (1, 0)


async def test_closing_ends_when_the_last_loan_has_timed_out(autojump_clock: MockClock) -> None:
    queue = queue_of(b"1", msg_timeout_s=1.0)
    async with queue.open_consumer("t", "c", max_in_flight=2) as consumer:
        consumer.resume()
        await consumer.receive()
        started = trio.current_time()
    assert trio.current_time() - started == 1.0
    assert consumer.statistics().answers == {}


async def test_receiver_that_waits_is_told_at_once_that_its_consumer_is_closed(
    autojump_clock: MockClock,
) -> None:
    queue = queue_of(b"1")
    async with (
        trio.open_nursery() as nursery,
        queue.open_consumer("t", "c", max_in_flight=2) as consumer,
    ):
        consumer.resume()
        await consumer.receive()
        started = trio.current_time()

        @nursery.start_soon
        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await consumer.receive()
            assert trio.current_time() == started

        await wait_all_tasks_blocked()
    assert trio.current_time() - started == 4.0


@pytest.mark.parametrize("how", ["requeued", "closed"])
async def test_what_comes_back_wakes_who_waits(how: str, autojump_clock: MockClock) -> None:
    queue = queue_of(b"1")
    async with (
        trio.open_nursery() as nursery,
        queue.open_consumer("t", "c", max_in_flight=1) as waiting,
    ):
        with trio.CancelScope() as scope:
            async with queue.open_consumer("t", "c", max_in_flight=1) as consumer:
                consumer.resume()
                delivery = await consumer.receive()
                waiting.resume()

                @nursery.start_soon
                async def wait() -> None:
                    (await waiting.receive()).finish()

                await wait_all_tasks_blocked()
                if how == "closed":
                    scope.cancel()
                else:
                    delivery.requeue()
                await wait_all_tasks_blocked()
                assert waiting.statistics().answers == {"finished": 1}
        await wait_all_tasks_blocked()
        assert waiting.statistics().answers == {"finished": 1}
        assert trio.current_time() < 1.0


async def test_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    """Cancelled at whatever moment, before or after the message has come."""
    queue = queue_of()
    received = []
    async with queue.open_consumer("t", "c", max_in_flight=99) as consumer:
        consumer.resume()
        for number in range(20):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def take() -> None:
                    received.append((await consumer.receive()).body)

                await wait_all_tasks_blocked()
                if number % 2:
                    nursery.cancel_scope.cancel()
                queue.publish_nowait("t", [b"%d" % number])
                nursery.cancel_scope.cancel()
        while queue.statistics().waiting:
            received.append((await consumer.receive()).body)
    assert received == [b"%d" % number for number in range(20)]


async def test_stranded_delivery_comes_late_at_the_tail(autojump_clock: MockClock) -> None:
    faults = Faults(strand=lambda body, attempt: body == b"1" and attempt == 1)
    queue = queue_of(b"1", b"2", faults=faults)
    async with queue.open_consumer("t", "c", max_in_flight=1) as consumer:
        consumer.resume()
        first = await consumer.receive()
        assert (first.body, first.attempts) == (b"2", 1)
        assert queue.statistics().on_loan == 2
        first.finish()
        late = await consumer.receive()
        assert (late.body, late.attempts) == (b"1", 2)
        assert trio.current_time() == pytest.approx(10.0)
        late.finish()
    assert (queue.statistics().stranded, queue.statistics().messages) == (1, 0)


async def test_lost_finish_brings_what_was_done_again(autojump_clock: MockClock) -> None:
    queue = queue_of(
        b"1", b"2", faults=Faults(lose_finish=lambda body, attempt: body == b"1" and attempt < 3)
    )
    seen = []
    async with queue.open_consumer("t", "c", max_in_flight=1) as consumer:
        consumer.resume()
        for _ in range(4):
            delivery = await consumer.receive()
            seen.append((delivery.body, delivery.attempts))
            delivery.finish()
        assert consumer.statistics().answers == {"finished": 4}
    assert seen == [(b"1", 1), (b"2", 1), (b"1", 2), (b"1", 3)]
    assert queue.statistics().messages == 0


async def test_receiving_lets_other_tasks_run(autojump_clock: MockClock) -> None:
    queue = queue_of(*[b"x"] * 200)
    async with queue.open_consumer("t", "c", max_in_flight=200) as consumer:
        consumer.resume()
        async with trio.open_nursery() as nursery:
            seen: list[int] = []

            @nursery.start_soon
            async def look() -> None:
                seen.append(consumer.statistics().received)

            for delivery in await receive(consumer, 200):
                delivery.finish()
        assert seen[0] <= 32
