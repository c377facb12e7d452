"""The outgoing half: together what is written together, whole whatever is cancelled, bounded."""

from __future__ import annotations

import math
from functools import partial

import trio
import trio.testing

from runtime.rpc.limits import RpcLimits
from runtime.rpc.statistics import Counters
from runtime.rpc.transport import Transport


class Told:
    """Writers that note when they are told to wait."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def pause_writing(self) -> None:
        self.notes.append("wait")

    def resume_writing(self) -> None:
        self.notes.append("go on")


class Sink(trio.abc.SendStream):
    """Takes what is sent in small pieces, as slowly as it is told; a cancelled send leaves half."""

    def __init__(self, pause_s: float = 0.0, piece_bytes: int = 10) -> None:
        self.sends: list[int] = []
        self.received = bytearray()
        self._pause_s = pause_s
        self._piece_bytes = piece_bytes

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends.append(len(data))
        for start in range(0, len(data), self._piece_bytes):
            await trio.sleep(self._pause_s)
            self.received += data[start : start + self._piece_bytes]

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


LIMITS = RpcLimits(high_water_bytes=100, low_water_bytes=50, backlog_limit_bytes=1000, flush_s=5, stall_s=20)


def transport_to(
    sink: Sink, told: Told | None = None, limits: RpcLimits = LIMITS
) -> tuple[Transport, Counters]:
    counters = Counters()
    return Transport(sink, told or Told(), limits, counters), counters  # type: ignore[arg-type]  # half a stream


async def test_writes_of_one_tick_leave_as_one(autojump_clock: trio.testing.MockClock) -> None:
    sink = Sink()
    transport, counters = transport_to(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run_writer, lambda: None)
        for number in range(5):
            transport.write(b"%d" % number * 4)
        await trio.testing.wait_all_tasks_blocked()
        transport.close()
        transport.write(b"too late")
    assert sink.sends == [20]
    assert bytes(sink.received) == b"00001111222233334444"
    assert counters.sent_bytes == 20


async def test_writers_wait_above_the_high_mark_until_below_the_low_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told, sink = Told(), Sink(0.1)
    transport, _ = transport_to(sink, told)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run_writer, lambda: None)
        transport.write(b"x" * 100)
        assert told.notes == []
        transport.write(b"x")
        assert told.notes == ["wait"]
        await trio.sleep(5)
        assert told.notes == ["wait", "go on"]
        transport.close()


async def test_cancellation_around_the_writer_leaves_no_half_of_what_was_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The order in which `Link` stops: those who write end, the transport closes, the writer drains."""
    for moment_s in (0.0, 0.05, 0.15, 0.35):
        sink = Sink(0.1)
        transport, _ = transport_to(sink)
        with trio.move_on_after(moment_s + 1e-9):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.run_writer, lambda: None)
                try:
                    transport.write(b"0123456789" * 9)
                    await trio.sleep_forever()
                finally:
                    transport.close()
        assert bytes(sink.received) == b"0123456789" * 9


async def test_writer_that_cannot_flush_ends_after_the_grace(autojump_clock: trio.testing.MockClock) -> None:
    sink, ended = Sink(math.inf), trio.Event()
    transport, _ = transport_to(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run_writer, ended.set)
        transport.write(b"x")
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        transport.close()
        await ended.wait()
    assert trio.current_time() - began == LIMITS.flush_s


async def test_stalled_write_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    sink, ended = Sink(math.inf), trio.Event()
    transport, counters = transport_to(sink)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run_writer, ended.set)
        transport.write(b"x")
        await ended.wait()
    assert trio.current_time() - began == LIMITS.stall_s
    assert counters.failures == {"stalled write": 1}
    assert transport.is_closing()


async def test_peer_that_reads_slowly_is_not_one_that_does_not_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The deadline was once one for all that was written: whoever took 20 s for a long answer was cut off."""
    sink, told = Sink(1.0, piece_bytes=8 << 10), Told()
    limits = RpcLimits(stall_s=20, high_water_bytes=200 << 10, low_water_bytes=100 << 10)
    transport, counters = transport_to(sink, told, limits)
    notes: list[list[str]] = []
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run_writer, lambda: None)
        transport.write(b"x" * (320 << 10))
        for pause_s in (30, 8.5, 10):
            await trio.sleep(pause_s)
            notes.append(told.notes.copy())
        transport.close()
    assert notes[:2] == [["wait"], ["wait", "go on"]]  # before all of it has left
    assert (len(sink.received), counters.sent_bytes, counters.failures) == (320 << 10, 320 << 10, {})
    assert sink.sends == [64 << 10] * 5
    assert trio.current_time() - began > 2 * limits.stall_s


async def test_backlog_over_the_limit_cuts_the_peer_off(autojump_clock: trio.testing.MockClock) -> None:
    transport, counters = transport_to(Sink(math.inf))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run_writer, lambda: None)
        for _ in range(30):
            transport.write(b"x" * 50)
    assert counters.failures == {"peer does not read": 1}


async def test_idle_writer_has_no_deadline(autojump_clock: trio.testing.MockClock) -> None:
    sink = Sink()
    transport, _ = transport_to(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(transport.run_writer, lambda: None))
        transport.write(b"a")
        await trio.sleep(1000)
        transport.write(b"b")
        await trio.testing.wait_all_tasks_blocked()
        transport.close()
    assert bytes(sink.received) == b"ab"
