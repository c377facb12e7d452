"""One connection in virtual time, its peer played by the test."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from runtime.queue.nsq.codec import Codec, Message
from runtime.queue.nsq.connection import Connection, Tally
from runtime.queue.nsq.errors import CommandRefused, ConnectionLost, NotDone, NsqError
from runtime.queue.nsq.handshake import Negotiated, Opened
from runtime.queue.nsq.options import NsqOptions

OPTIONS = NsqOptions(heartbeat_s=5, answer_deadline_s=4)


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">ii", len(payload) + 4, kind) + payload


class Played:
    """A connection under test, the far end of its stream, and how it ended."""

    def __init__(self, options: NsqOptions = OPTIONS, near: trio.abc.Stream | None = None) -> None:
        ours, self.far = trio.testing.memory_stream_pair()
        self.tally = Tally()
        self.messages: list[Message] = []
        self.answers: list[bytes | NsqError] = []
        self.end: NsqError | None = None
        self.ended = trio.Event()
        opened = Opened(near or ours, Codec(), Negotiated(10, 2500, 1, "1.3.0"))
        self.connection = Connection("here:1", opened, options, self.tally, self.take)

    def take(self, _: Connection, message: Message) -> None:
        self.messages.append(message)

    async def run(self) -> None:
        async def serve(_: Connection) -> None:
            await trio.sleep_forever()

        try:
            await self.connection.run(serve)
        except NsqError as exc:
            self.end = exc
        self.ended.set()

    async def wait_end(self) -> NsqError:
        await self.ended.wait()
        assert self.end is not None
        return self.end


@asynccontextmanager
async def play(*arguments: Any) -> AsyncIterator[Played]:
    played = Played(*arguments)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(played.run)
        yield played
        nursery.cancel_scope.cancel()


async def test_what_is_written_in_one_turn_leaves_in_one_piece_in_order() -> None:
    async with play() as played:
        for number in range(5):
            played.connection.write_nowait(b"%d\n" % number)
        await trio.testing.wait_all_tasks_blocked()
        assert await played.far.receive_some(100) == b"0\n1\n2\n3\n4\n"


async def test_heartbeat_is_answered_and_keeps_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with play() as played:
        for _ in range(20):
            await played.far.send_all(frame(0, b"_heartbeat_"))
            assert await played.far.receive_some(100) == b"NOP\n"
            await trio.sleep(5)
        assert not played.ended.is_set()


async def test_silent_peer_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with play() as played:
        assert (await played.wait_end()).reason == "silent"
        assert 12 <= trio.current_time() <= 13.5


async def test_unanswered_request_ends_the_connection_and_every_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with play() as played:
        for _ in range(3):
            played.connection.request_nowait(b"MPUB\n", played.answers.append)
        assert (await played.wait_end()).reason == "unanswered"
        assert 4 <= trio.current_time() <= 6
        assert [type(answer) for answer in played.answers] == [ConnectionLost] * 3


async def test_answers_come_in_order_and_a_refusal_leaves_the_rest_undone() -> None:
    async with play() as played:
        for _ in range(4):
            played.connection.request_nowait(b"MPUB\n", played.answers.append)
        await played.far.send_all(frame(0, b"OK") + frame(1, b"E_BAD_MESSAGE too big"))
        assert isinstance(await played.wait_end(), CommandRefused)
        assert played.answers[0] == b"OK"
        assert [type(answer) for answer in played.answers[1:]] == [CommandRefused, NotDone, NotDone]
        played.connection.request_nowait(b"MPUB\n", played.answers.append)
        assert isinstance(played.answers[4], NotDone)


async def test_late_finish_is_counted_and_ends_nothing() -> None:
    async with play() as played:
        late = b"E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight"
        await played.far.send_all(frame(1, late))
        await played.far.send_all(frame(2, struct.pack(">qH16s", 1, 1, b"0123456789abcdef") + b"body"))
        await trio.testing.wait_all_tasks_blocked()
        assert played.tally.too_late == {"E_FIN_FAILED": 1}
        assert [message.body for message in played.messages] == [b"body"]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (frame(0, b"OK"), "protocol"),  # nobody has asked
        (b"\xff" * 8, "protocol"),
        (frame(1, b"E_INVALID RDY out of range"), "E_INVALID"),
    ],
)
async def test_peer_that_misbehaves_is_left(sent: bytes, reason: str) -> None:
    async with play() as played:
        await played.far.send_all(sent)
        assert (await played.wait_end()).reason == reason


async def test_end_of_stream_in_the_middle_of_a_frame_is_an_end() -> None:
    async with play() as played:
        await played.far.send_all(frame(0, b"OK")[:7])
        await played.far.send_eof()
        assert (await played.wait_end()).reason == "closed-by-nsqd"


class Stuck(trio.abc.Stream):
    """A peer whose window is shut, or whose socket breaks while its last words are still to be read."""

    def __init__(self, *, breaks: bool) -> None:
        self.breaks = breaks
        self.said, self.words = trio.Event(), b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.breaks:
            raise trio.BrokenResourceError
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self.said.wait()
        self.said = trio.Event()
        return self.words

    async def aclose(self) -> None: ...


async def test_broken_write_still_reads_why(autojump_clock: trio.testing.MockClock) -> None:
    """nsqd refuses an MPUB and hangs up while we are still sending: the reset must not hide the reason,
    or a poisonous message looks like a network fault and is sent for ever."""
    stream = Stuck(breaks=True)
    async with play(OPTIONS, stream) as played:
        played.connection.request_nowait(b"MPUB\n", played.answers.append)
        await trio.sleep(0.3)
        stream.words = frame(1, b"E_BAD_MESSAGE too big")
        stream.said.set()
        assert (await played.wait_end()).reason == "E_BAD_MESSAGE"
        assert isinstance(played.answers[0], CommandRefused)


async def test_broken_write_without_a_word_ends_soon(autojump_clock: trio.testing.MockClock) -> None:
    async with play(OPTIONS, Stuck(breaks=True)) as played:
        played.connection.write_nowait(b"FIN\n")
        assert (await played.wait_end()).reason == "write-broke"
        assert trio.current_time() == pytest.approx(0.5)


async def test_peer_that_does_not_read_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with play(OPTIONS, Stuck(breaks=False)) as played:
        played.connection.write_nowait(b"FIN\n")
        assert (await played.wait_end()).reason == "unread"
        assert 4 <= trio.current_time() <= 6


async def test_out_buffer_is_bounded() -> None:
    async with play(OPTIONS, Stuck(breaks=False)) as played:
        played.connection.request_nowait(b"MPUB\n", played.answers.append)
        while played.connection.lost is None:
            played.connection.write_nowait(b"x" * 100_000)
        assert played.connection.lost.reason == "unread"
        assert isinstance(played.answers[0], ConnectionLost)
        await played.wait_end()


async def test_writable_again_when_the_peer_has_read() -> None:
    async with play() as played:
        played.connection.write_nowait(b"x" * OPTIONS.max_batch_bytes)
        with trio.move_on_after(0) as scope:
            await played.connection.wait_writable()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(played.connection.wait_writable)
            left = OPTIONS.max_batch_bytes
            while left:
                left -= len(await played.far.receive_some(1 << 20))


async def test_cancelled_request_leaves_the_others_their_answers() -> None:
    async with play() as played:
        with trio.move_on_after(0):
            await played.connection.request(b"CLS\n")
        played.connection.request_nowait(b"MPUB\n", played.answers.append)
        await played.far.send_all(frame(0, b"CLOSE_WAIT") + frame(0, b"OK"))
        await trio.testing.wait_all_tasks_blocked()
        assert played.answers == [b"OK"]
