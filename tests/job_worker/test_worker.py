from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from random import Random

import msgspec
import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from job_worker.settings import JobSettings, Lane, Nsq, Room
from job_worker.worker import Worker, open_worker
from runtime.queue import Queue
from runtime.queue.memory import Faults, MemoryQueue
from schema.message import Level, Message
from tests.job_worker.fakes import LOG, FakeConn, FakeConsumer, FakeQueue, message

I = Level.IMPORTANT  # noqa: E741


class Job:
    """A worker on a fake queue, with fake conn servers in its nursery."""

    def __init__(self, worker: Worker, links: trio.Nursery) -> None:
        self.worker = worker
        self.links = links
        self.scopes: dict[str, trio.CancelScope] = {}

    @property
    def consumer(self) -> FakeConsumer:
        (consumer,) = self.worker.consumers
        assert isinstance(consumer, FakeConsumer)
        return consumer

    async def add(self, name: str, conn: FakeConn) -> FakeConn:
        async def run(*, task_status: trio.TaskStatus[object]) -> None:
            with trio.CancelScope() as self.scopes[name]:
                await self.worker.run_lane(name, conn, task_status=task_status)

        await self.links.start(run)
        return conn


@asynccontextmanager
async def open_job(queue: Queue | None = None, **sections: msgspec.Struct) -> AsyncIterator[Job]:
    queue = queue or FakeQueue()
    settings = msgspec.structs.replace(JobSettings(), **sections)
    async with open_worker(settings, queue, LOG) as worker, trio.open_nursery() as links:
        yield Job(worker, links)
        links.cancel_scope.cancel()


async def test_messages_are_finished_after_every_conn_server_has_them(autojump_clock: MockClock) -> None:
    async with open_job() as job:
        quick = await job.add("a", FakeConn())
        slow = await job.add("b", FakeConn(takes_s=0.5))
        job.consumer.put(message(1), message(2), message(3, level=I), message(4))
        await trio.sleep(0.25)
        # a leads, then b and c are flushed by d, all in a moment
        assert quick.batches() == [(0, [1]), (0, [2]), (0, [3])]
        assert job.consumer.answers == [None] * 4
        await trio.sleep(5)
        assert quick.numbers() == slow.numbers() == [1, 2, 3, 4]
        assert job.consumer.answers == ["finished"] * 4


async def test_two_hundred_rooms_keep_their_order_at_every_conn_server(autojump_clock: MockClock) -> None:
    dice = Random(3)
    async with open_job(lane=Lane(max_batches=32)) as job:
        conns = [await job.add(f"c{number}", FakeConn(takes_s=0.01 * number)) for number in range(3)]
        sent: dict[str, list[int]] = {}
        for number in range(1, 3001):
            room = f"room{dice.randrange(200)}"
            sent.setdefault(room, []).append(number)
            job.consumer.put(message(number, room, dice.choice([Level.NORMAL, Level.NORMAL, I])))
            if number % 50 == 0:
                await trio.sleep(0.1)
        await trio.sleep(30)
        for conn in conns:
            assert {room: conn.numbers(room) for room in sent} == sent
        assert job.consumer.answers == ["finished"] * 3000


async def test_nothing_is_consumed_while_no_conn_server_is_known(autojump_clock: MockClock) -> None:
    async with open_job() as job:
        job.consumer.put(message(1))
        await trio.sleep(60)
        assert job.consumer.is_paused
        assert job.consumer.answers == [None]
        conn = await job.add("a", FakeConn())
        await trio.sleep(1)
        assert (conn.numbers(), job.consumer.answers) == ([1], ["finished"])
        job.scopes["a"].cancel()
        await wait_all_tasks_blocked()
        assert job.consumer.is_paused
        assert not job.worker.has_conn_servers


async def test_what_the_last_conn_server_did_not_get_goes_back_to_the_queue(
    autojump_clock: MockClock,
) -> None:
    async with open_job() as job:
        await job.add("a", FakeConn(takes_s=100))
        first, second = job.consumer.put(message(1, level=I), message(2))
        await trio.sleep(0.5)
        job.scopes["a"].cancel()
        await trio.sleep(3)
        assert (first.answer, second.answer) == (3.0, 3.0)
        assert job.worker.statistics().loans.requeued == {"nobody": 2}
        conn = await job.add("b", FakeConn())
        job.consumer.put(message(1, level=I), message(2))
        await trio.sleep(2)
        assert conn.numbers() == [1, 2]


async def test_stalled_conn_server_keeps_no_message_of_others_on_loan(autojump_clock: MockClock) -> None:
    async with open_job(nsq=Nsq(max_in_flight=1000)) as job:
        good = await job.add("good", FakeConn(takes_s=0.01))
        bad = await job.add("bad", FakeConn())
        bad.stall()
        for number in range(600):
            job.consumer.put(message(number + 1, f"room{number % 5}", I if number % 7 == 0 else Level.NORMAL))
            await trio.sleep(0.1)
        await trio.sleep(10)
        assert set(job.consumer.answers) == {"finished"}
        assert sorted(n for room in range(5) for n in good.numbers(f"room{room}")) == list(range(1, 601))
        delivery = job.worker.statistics().delivery
        assert (delivery.detached_lanes, dict(delivery.dropped_important)) == (1, {})


async def test_full_feed_stops_the_consumer_and_drops_nothing(autojump_clock: MockClock) -> None:
    async with open_job(room=Room(feed_messages=10), lane=Lane(max_batches=2, concurrency=1)) as job:
        conn = await job.add("a", FakeConn(takes_s=0.2))
        job.consumer.put(*(message(number) for number in range(1, 501)))
        await trio.sleep(0.1)
        assert job.worker.statistics().loans.taken < 100
        await trio.sleep(20)
        assert conn.numbers() == list(range(1, 501))
        assert not job.worker.statistics().delivery.dropped_normal


async def test_redelivery_is_pushed_once(autojump_clock: MockClock) -> None:
    async with open_job() as job:
        conn = await job.add("a", FakeConn(takes_s=0.5))
        job.consumer.put(message(1), message(1), message(1, origin=0), message(1, origin=0))
        await trio.sleep(3)
        job.consumer.put(message(1), message(1, origin=0))
        await trio.sleep(3)
        assert conn.numbers() == [1, 1, 1, 1]
        assert job.consumer.answers == ["finished"] * 6
        assert job.worker.statistics().loans.repeated == {"on loan": 1, "finished": 1}


async def test_each_partition_has_its_consumer(autojump_clock: MockClock) -> None:
    queue = FakeQueue()
    async with open_job(queue, nsq=Nsq(partitions=3, max_in_flight=100)) as job:
        assert sorted(queue.consumers) == ["chat_room.0", "chat_room.1", "chat_room.2"]
        assert [consumer.max_in_flight for consumer in job.worker.consumers] == [33, 33, 33]  # type: ignore[attr-defined]
        conn = await job.add("a", FakeConn())
        for number, consumer in enumerate(queue.consumers.values()):
            consumer.put(message(number + 1, f"room{number}"))
        await trio.sleep(1)
        assert [conn.numbers(f"room{number}") for number in range(3)] == [[1], [2], [3]]
    assert sorted(queue.closed) == sorted(queue.consumers)


async def test_drain_delivers_what_is_on_loan_and_consumes_nothing_more(autojump_clock: MockClock) -> None:
    async with open_job() as job:
        conn = await job.add("a", FakeConn(takes_s=0.5))
        job.consumer.put(*(message(number, f"room{number % 3}") for number in range(1, 101)))
        await trio.sleep(0.25)
        before = trio.current_time()
        job.links.start_soon(job.worker.drain, before + 18)
        await trio.sleep(0.01)
        late = job.consumer.put(message(1000))
        await trio.sleep(0.4)
        assert job.worker.statistics().dispatch.feeds == 0
        await trio.sleep(5)
        assert job.consumer.answers == ["finished"] * 100 + [None]
        assert sorted(chain(*(conn.numbers(f"room{n}") for n in range(3)))) == list(range(1, 101))
        job.scopes["a"].cancel()
        await trio.sleep(1)
        await job.add("b", FakeConn())
        await trio.sleep(1)
        assert job.consumer.is_paused
        assert late[0].answer is None


async def test_drain_ends_at_its_deadline_and_the_rest_goes_back(autojump_clock: MockClock) -> None:
    async with open_job() as job:
        conn = await job.add("a", FakeConn())
        conn.stall()
        job.consumer.put(message(1), message(2, level=I), message(3))
        await trio.sleep(1)
        before = trio.current_time()
        await job.worker.drain(before + 5)
        assert trio.current_time() == before + 5
        assert job.consumer.answers == [0.0] * 3
        assert job.worker.statistics().loans.requeued == {"drain": 3}


async def test_drain_with_a_full_feed_keeps_the_order(autojump_clock: MockClock) -> None:
    async with open_job(room=Room(feed_messages=5), lane=Lane(max_batches=1, concurrency=1)) as job:
        conn = await job.add("a", FakeConn(takes_s=0.3))
        job.consumer.put(*(message(number) for number in range(1, 201)))
        await trio.sleep(1)
        await job.worker.drain(trio.current_time() + 18)
        assert conn.numbers() == list(range(1, 201))
        assert job.consumer.answers == ["finished"] * 200


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.25, 0.999, 1.0, 1.25, 3.0, 3.5, 8.0, 30.0])
async def test_worker_can_be_cancelled_at_any_moment(autojump_clock: MockClock, after_s: float) -> None:
    """Nothing is left running, and each message is either finished or back in the queue."""
    queue = FakeQueue()
    with trio.move_on_after(after_s):
        async with open_job(queue, room=Room(feed_messages=5)) as job:
            await job.add("a", FakeConn(takes_s=0.1))
            (await job.add("b", FakeConn())).stall()
            for number in range(1, 41):
                job.consumer.put(message(number, f"room{number % 4}", I if number % 5 == 0 else Level.NORMAL))
            await trio.sleep_forever()
    (consumer,) = queue.consumers.values()
    # What it never took, the queue still has.
    taken = [d.answer for d in consumer.deliveries if d not in consumer.untaken]
    assert None not in taken
    assert queue.closed == ["chat_room"]


async def test_poison_between_messages_changes_nothing_for_them(autojump_clock: MockClock) -> None:
    async with open_job() as job:
        conn = await job.add("a", FakeConn())
        job.consumer.put(message(1), b"\xff", Message("r", Level.NORMAL, b"").encode(), message(2))
        await trio.sleep(2)
        assert conn.numbers() == [1, 2]
        assert job.consumer.answers == ["finished"] * 4
        assert job.worker.statistics().loans.malformed == 2


def say(queue: MemoryQueue, *names: int, room: str = "r", level: Level = Level.NORMAL) -> None:
    queue.publish_nowait("chat_room", [message(name, room, level).encode() for name in names])


async def test_queue_does_not_time_out_while_a_conn_server_is_waited_for(autojump_clock: MockClock) -> None:
    queue = MemoryQueue(msg_timeout_s=10)
    async with open_job(queue) as job:
        conn = await job.add("a", FakeConn())
        conn.down()
        say(queue, *range(1, 30), level=I)
        await trio.sleep(90)
        assert queue.statistics().on_loan == 29
        conn.down(False)
        await trio.sleep(3)
        assert conn.numbers() == list(range(1, 30))
        statistics = queue.statistics()
        assert (statistics.messages, statistics.timed_out) == (0, 0)


async def test_important_that_no_conn_server_takes_for_long_is_tried_again_and_again(
    autojump_clock: MockClock,
) -> None:
    queue = MemoryQueue()
    async with open_job(queue, lane=Lane(window_s=30)) as job:
        conn = await job.add("a", FakeConn())
        conn.down()
        say(queue, 1, 2, level=I)
        await trio.sleep(200)
        assert job.worker.statistics().loans.requeued["nobody"] >= 2 * 3
        conn.down(False)
        await trio.sleep(10)
        assert sorted(conn.numbers()) == [1, 2]
        assert queue.statistics().messages == 0


async def test_lost_finish_makes_no_second_push(autojump_clock: MockClock) -> None:
    queue = MemoryQueue(faults=Faults(lose_finish=lambda _, attempts: attempts == 1))
    async with open_job(queue) as job:
        conn = await job.add("a", FakeConn())
        for name in range(1, 51):
            say(queue, name)
            await trio.sleep(0.1)
        await trio.sleep(30)
        assert conn.numbers() == list(range(1, 51))
        assert queue.statistics().messages == 0
        assert job.worker.statistics().loans.repeated == {"finished": 50}


async def test_next_worker_goes_on_where_a_drained_one_has_stopped(autojump_clock: MockClock) -> None:
    queue, conn = MemoryQueue(), FakeConn(takes_s=0.05)
    for name in range(1, 401):
        say(queue, name, room=f"room{name % 4}")
    for pause_s in (0.3, 0.35, 0.1, 5):
        async with open_job(
            queue, room=Room(feed_messages=8), lane=Lane(max_batches=4), nsq=Nsq(max_in_flight=50)
        ) as job:
            await job.add("a", conn)
            await trio.sleep(pause_s)
            await job.worker.drain(trio.current_time() + 10)
    for room in range(4):
        assert conn.numbers(f"room{room}") == [name for name in range(1, 401) if name % 4 == room]
    assert queue.statistics().messages == 0
