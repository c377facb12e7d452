"""What a service sees of NSQ is `runtime.queue`, no more."""

from __future__ import annotations

import pytest
import trio

from runtime.queue import Queue
from runtime.queue.nsq import NsqOptions, NsqQueue
from schema.access import Unavailable
from tests.ports import free_port

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_service_without_nsqd_starts_waits_and_leaves() -> None:
    options = NsqOptions(nsqd=(f"127.0.0.1:{free_port()}",), publish_deadline_s=0.2)
    queue: Queue = NsqQueue(options)
    with trio.fail_after(5):
        async with (
            queue.open_producer() as producer,
            queue.open_consumer("t", "c", max_in_flight=1) as consumer,
        ):
            consumer.resume()
            with pytest.raises(Unavailable, match=r"not stored within 0\.2 s"):
                await producer.publish("t", [b"x"])
            with trio.move_on_after(0.1) as waiting:
                await consumer.receive()
            assert waiting.cancelled_caught
            consumer.pause()


async def test_bad_names_are_refused_when_a_consumer_is_opened() -> None:
    queue = NsqQueue(NsqOptions())
    for topic, channel, most in [("t/t", "c", 1), ("t", "", 1), ("t", "c", 0)]:
        with pytest.raises(ValueError, match=r"."):
            async with queue.open_consumer(topic, channel, max_in_flight=most):
                pytest.fail("opened")
