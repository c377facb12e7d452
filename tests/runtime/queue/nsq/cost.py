"""What the queue costs, and what it loses when nsqd is restarted or killed.

    python -m tests.runtime.queue.nsq.cost [--nsqd 127.0.0.1:4150] [--messages 50000] [--rates 100,5000]

Without `--nsqd` it starts one (the real one where it is on PATH) with the flags that we recommend, and ends
it in both ways as well.  It uses the topic `roomcast_cost` and leaves it empty; no ephemeral one, because
nsqd drops from those what does not fit into its memory.  CPU is per message: ours, and nsqd's after the plus.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from struct import Struct

import structlog
import trio

from runtime.queue.nsq import NsqConsumer, NsqOptions, NsqProducer, NsqQueue
from schema.access import Unavailable
from tests.runtime.queue.nsq.daemons import Daemon, Flags, best_kind, open_nsqd

STEP_DEADLINE_S = 60
LATENCY_SECONDS = 3
TOPIC = CHANNEL = "roomcast_cost"
QUIET_S = 0.5
PADDING = b"x" * 92
STAMP = Struct("d")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of the tries to end nsqd: calls of ten messages, and when in between it is ended.
CALLS, PAUSE_S, END_AT = 300, 0.01, 100


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  its output is the point


@dataclass(frozen=True, slots=True)
class Meter:
    """Measures steps; `nsqd` is None where it is somebody else's process."""

    nsqd: Daemon | None

    def nsqd_cpu_s(self) -> float:
        if self.nsqd is None or self.nsqd.process is None:
            return 0.0
        fields = Path(f"/proc/{self.nsqd.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    @contextmanager
    def measured(self, what: str, count: int) -> Iterator[None]:
        """Print how many a second went, and their CPU."""
        began, cpu, theirs = time.perf_counter(), time.process_time(), self.nsqd_cpu_s()
        yield
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        theirs = self.nsqd_cpu_s() - theirs
        ours_us, theirs_us = 1e6 * cpu / count, 1e6 * theirs / count
        say(f"{what:28} {count / seconds:>9,.0f}/s {ours_us:>7.1f} us + {theirs_us:.1f} us")


async def publish(producer: NsqProducer, count: int, callers: int) -> None:
    """Publish `count` messages, one to a call, from `callers` tasks."""

    async def call() -> None:
        for _ in range(count // callers):
            await producer.publish(TOPIC, [STAMP.pack(0) + PADDING])

    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(call)


async def latency(producer: NsqProducer, consumer: NsqConsumer, rate: int) -> None:
    """Print percentiles of the time from publish to receive at `rate` a second."""
    count, delays = rate * LATENCY_SECONDS, []

    async def offer() -> None:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                await trio.sleep_until(began + number / rate)
                nursery.start_soon(producer.publish, TOPIC, [STAMP.pack(time.perf_counter()) + PADDING])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offer)
        for _ in range(count):
            delivery = await consumer.receive()
            delays.append(time.perf_counter() - STAMP.unpack_from(delivery.body)[0])
            delivery.finish()
    delays.sort()
    p50, p99, worst = (1000 * delays[min(count - 1, int(count * share))] for share in (0.5, 0.99, 1))
    say(f"{f'latency at {rate:,}/s':28} p50 {p50:.2f} ms   p99 {p99:.2f} ms   max {worst:.2f} ms")


async def empty(consumer: NsqConsumer) -> None:
    """Finish what an earlier run has left."""
    while True:
        with trio.move_on_after(QUIET_S) as quiet:
            (await consumer.receive()).finish()
        if quiet.cancelled_caught:
            return


async def measure(options: NsqOptions, meter: Meter, messages: int, rates: list[int]) -> None:
    """Print throughput and latency."""
    queue = NsqQueue(options)
    async with (
        queue.open_producer() as producer,
        queue.open_consumer(TOPIC, CHANNEL, max_in_flight=2500) as consumer,
    ):
        consumer.resume()
        with trio.fail_after(STEP_DEADLINE_S):
            await producer.publish(TOPIC, [b"warm"])
            await empty(consumer)
        for rate in rates:
            with trio.fail_after(STEP_DEADLINE_S):
                await latency(producer, consumer, rate)
        consumer.pause()
        before = producer.statistics().stored
        for callers, share in ((1, 20), (64, 1), (1000, 1)):
            count = messages // share // callers * callers
            with trio.fail_after(STEP_DEADLINE_S), meter.measured(f"publish, {callers} callers", count):
                await publish(producer, count, callers)
        with trio.fail_after(STEP_DEADLINE_S), meter.measured("publish, 100 bodies a call", messages):
            for _ in range(messages // 100):
                await producer.publish(TOPIC, [STAMP.pack(0) + PADDING] * 100)
        consumer.resume()
        gathered = producer.statistics().stored - before
        with trio.fail_after(STEP_DEADLINE_S), meter.measured("consume what has gathered", gathered):
            for _ in range(gathered):
                (await consumer.receive()).finish()


async def wait_idle(nsqd: Daemon) -> None:
    """Wait until nsqd has nothing left; the caller has a deadline."""
    busy = True
    while busy:
        await trio.sleep(PAUSE_S)
        stats = await nsqd.stats(TOPIC, CHANNEL)
        busy = any(stats[name] for name in ("depth", "in_flight", "deferred"))


async def outlive(options: NsqOptions, nsqd: Daemon, number: signal.Signals) -> None:
    """Publish steadily, as a logic server does, end nsqd meanwhile, and print what has not arrived."""
    accepted: list[bytes] = []
    came: Counter[bytes] = Counter()
    silences: list[float] = []

    async def offer() -> None:
        for call in range(CALLS):
            await trio.sleep(PAUSE_S)
            bodies = [b"%d.%d" % (call, index) for index in range(10)]
            stored = False
            while not stored:
                try:
                    await producer.publish(TOPIC, bodies)
                    stored = True
                except Unavailable:
                    await trio.sleep(PAUSE_S)
            accepted.extend(bodies)

    async def take() -> None:
        last = trio.current_time()
        while True:
            delivery = await consumer.receive()
            silences.append(trio.current_time() - last)
            last = trio.current_time()
            came[delivery.body] += 1
            delivery.finish()

    queue = NsqQueue(options)
    async with (
        queue.open_producer() as producer,
        queue.open_consumer(TOPIC, CHANNEL, max_in_flight=2500) as consumer,
    ):
        consumer.resume()
        with trio.fail_after(STEP_DEADLINE_S):
            async with trio.open_nursery() as taking:
                taking.start_soon(take)
                async with trio.open_nursery() as offering:
                    offering.start_soon(offer)
                    while len(accepted) < 10 * END_AT:  # noqa: ASYNC110  it is only numbers that change
                        await trio.sleep(PAUSE_S)
                    await nsqd.restart(number)
                await wait_idle(nsqd)
                await trio.sleep(QUIET_S)
                taking.cancel_scope.cancel()
    lost, twice = len(set(accepted) - came.keys()), sum(times > 1 for times in came.values())
    say(
        f"{f'{number.name}, then started again':28} lost {lost} of {len(accepted)} accepted, "
        f"{twice} came twice, longest silence {max(silences):.2f} s"
    )


async def run(address: str | None, messages: int, rates: list[int]) -> None:
    """Print all figures."""
    if address is not None:
        return await measure(NsqOptions(nsqd=(address,)), Meter(None), messages, rates)
    with tempfile.TemporaryDirectory() as folder:
        flags = Flags(known=((TOPIC, CHANNEL),))
        async with open_nsqd(best_kind(), Path(folder), flags, wired=False) as nsqd:
            say(f"{best_kind()} nsqd")
            await measure(NsqOptions(nsqd=(nsqd.address,)), Meter(nsqd), messages, rates)
            for number in (signal.SIGTERM, signal.SIGKILL):
                await outlive(NsqOptions(nsqd=(nsqd.address,), msg_timeout_s=1.0), nsqd, number)
    return None


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nsqd", help="address of one that is running")
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--rates", default="100,5000")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rates = [int(rate) for rate in arguments.rates.split(",")]
    trio.run(partial(run, arguments.nsqd, arguments.messages, rates))


if __name__ == "__main__":
    main()
