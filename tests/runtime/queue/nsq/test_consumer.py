"""A consumer in virtual time, its nsqds played by the test."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from runtime.queue.nsq import NsqConsumer, NsqOptions
from runtime.queue.nsq.codec import Codec
from runtime.queue.nsq.connection import Connection, Tally
from runtime.queue.nsq.errors import ConnectionLost, NsqError
from runtime.queue.nsq.handshake import Negotiated, Opened

MSG_TIMEOUT_S = 10.0


class PlayedNsqd:
    """One nsqd that has taken a consumer's SUB; says what the test wants it to say."""

    def __init__(self, consumer: NsqConsumer, *, max_rdy: int = 2500) -> None:
        self.output, self.input = trio.testing.MemorySendStream(), trio.testing.MemoryReceiveStream()
        stream = trio.StapledStream(self.output, self.input)
        opened = Opened(stream, Codec(), Negotiated(MSG_TIMEOUT_S, max_rdy, 1, "1.3.0"))
        self.connection = Connection("here:1", opened, NsqOptions(), Tally(), consumer._arrived)
        self.consumer = consumer
        self.sent = 0

    async def run(self) -> None:
        with suppress(NsqError):
            await self.connection.run(self.consumer._serve)

    async def say(self, kind: int, payload: bytes) -> None:
        self.input.put_data(struct.pack(">ii", len(payload) + 4, kind) + payload)
        await trio.testing.wait_all_tasks_blocked()

    async def deliver(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            await self.say(2, struct.pack(">qH", 1, 1) + b"%016d" % self.sent + b"%d" % self.sent)

    async def heard(self) -> list[bytes]:
        """Return the commands that have come since the last time."""
        await trio.testing.wait_all_tasks_blocked()
        with suppress(trio.WouldBlock):
            return bytes(self.output.get_data_nowait()).split(b"\n")[:-1]
        return []


@asynccontextmanager
async def play(consumer: NsqConsumer, *limits: int) -> AsyncIterator[list[PlayedNsqd]]:
    """Subscribe `consumer` at one nsqd for each of `limits`, the most that its RDY may say."""
    played = [PlayedNsqd(consumer, max_rdy=limit) for limit in limits]
    async with trio.open_nursery() as nursery:
        for nsqd in played:
            nursery.start_soon(nsqd.run)
            assert await nsqd.heard() == [b"SUB t c"]
            await nsqd.say(0, b"OK")
        yield played
        nursery.cancel_scope.cancel()


def make_consumer(max_in_flight: int) -> NsqConsumer:
    return NsqConsumer("t", "c", max_in_flight, NsqOptions())


async def test_asked_for_is_shared_by_all_nsqds_and_nothing_is_while_paused() -> None:
    consumer = make_consumer(7)
    async with play(consumer, 2500, 2500, 1) as nsqds:
        assert [await nsqd.heard() for nsqd in nsqds] == [[], [], []]
        consumer.resume()
        assert [await nsqd.heard() for nsqd in nsqds] == [[b"RDY 3"], [b"RDY 2"], [b"RDY 1"]]
        consumer.pause()
        assert [await nsqd.heard() for nsqd in nsqds] == [[b"RDY 0"]] * 3


async def test_share_of_a_lost_nsqd_goes_to_the_others_and_its_loans_are_void() -> None:
    consumer = make_consumer(4)
    async with play(consumer, 2500, 2500) as (one, two):
        consumer.resume()
        await two.heard()
        await one.deliver(2)
        held = await consumer.receive()
        one.connection.close_nowait(ConnectionLost("reset"))
        assert await two.heard() == [b"RDY 4"]
        held.finish()
        await two.deliver(1)
        (await consumer.receive()).finish()
        answers = consumer.statistics().answers
        assert (answers["late"], answers["stale"], answers["finished"]) == (1, 1, 1)
        assert consumer.losses == 1


async def test_what_comes_far_over_the_bound_is_given_back_at_once() -> None:
    consumer = make_consumer(2)
    async with play(consumer, 2500) as (nsqd,):
        consumer.resume()
        await nsqd.heard()
        await nsqd.deliver(9)
        assert await nsqd.heard() == [b"REQ %016d 0" % 9]
        statistics = consumer.statistics()
        assert (statistics.waiting, statistics.answers["returned"]) == (8, 1)


async def test_cancelled_receive_loses_nothing() -> None:
    consumer = make_consumer(5)
    async with play(consumer, 2500) as (nsqd,):
        consumer.resume()
        with trio.move_on_after(0):
            await consumer.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await nsqd.deliver(2)
        assert [(await consumer.receive()).body for _ in range(2)] == [b"1", b"2"]


async def test_leaving_does_not_wait_for_loans_whose_time_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Taken or not: once they kept a drain waiting until the next tick, for nothing."""
    consumer = make_consumer(5)
    async with play(consumer, 2500) as (nsqd,):
        consumer.resume()
        await nsqd.deliver(2)
        await consumer.receive()
        await trio.sleep(MSG_TIMEOUT_S)
        began = trio.current_time()
        consumer.stop_nowait()
        with trio.fail_after(1):
            await consumer.wait_answered()
        assert trio.current_time() == began
        assert b"REQ" not in b" ".join(await nsqd.heard())


async def test_leaving_waits_for_an_open_loan_until_it_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    consumer = make_consumer(5)
    async with play(consumer, 2500) as (nsqd,), trio.open_nursery() as nursery:
        consumer.resume()
        await nsqd.deliver(2)
        held = await consumer.receive()
        await nsqd.heard()

        async def answer_later() -> None:
            await trio.sleep(3)
            held.finish()

        nursery.start_soon(answer_later)
        consumer.stop_nowait()
        assert await nsqd.heard() == [b"RDY 0", b"REQ %016d 0" % 2]
        await consumer.wait_answered()
        assert trio.current_time() == pytest.approx(3, abs=0.01)
        with pytest.raises(trio.ClosedResourceError):
            await consumer.receive()
