"""The buffer of received bytes: whole messages out, whatever pieces come in, every byte accounted for."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from hypothesis import given, strategies as st

from runtime.rpc.buffer import Buffer
from runtime.rpc.errors import RpcError, Status

LIMIT = 1000


def framed(bodies: list[bytes]) -> bytes:
    return b"".join(b"\0" + len(body).to_bytes(4, "big") + body for body in bodies)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


def taken(buffer: Buffer) -> list[bytes]:
    return list(iter(lambda: buffer.take_message(LIMIT), None))


@given(st.lists(st.binary(max_size=60), max_size=8), st.lists(st.integers(0, 10_000), max_size=10))
def test_messages_come_out_whole_however_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    buffer, got = Buffer(lambda _: None), []
    for piece in pieces_of(framed(bodies), cuts):
        buffer.add(piece, len(piece))
        got += taken(buffer)
    buffer.eof()
    assert got + taken(buffer) == bodies


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=4), st.integers(1, 8))
def test_stream_that_ends_within_a_message_says_so(bodies: list[bytes], missing: int) -> None:
    buffer = Buffer(lambda _: None)
    data = framed(bodies)[:-missing]
    complete = framed(bodies[:-1])
    buffer.add(data, len(data))
    if len(data) <= len(complete):
        return
    assert taken(buffer) == bodies[:-1]
    buffer.eof()
    with pytest.raises(RpcError) as caught:
        buffer.take_message(LIMIT)
    assert caught.value.status is Status.INTERNAL


async def test_every_byte_is_acknowledged_once_padding_and_leftovers_included() -> None:
    acked: list[int] = []
    buffer = Buffer(acked.append)
    big = framed([b"x" * 900] * 100)
    buffer.add(big, len(big) + 7)
    assert acked == [7]
    for _ in range(60):
        await buffer.next_message(LIMIT)
    assert sum(acked) < len(big)
    assert sum(acked) + buffer.unacked_size() == len(big) + 7
    assert buffer.unacked_size() == 0


@given(st.lists(st.binary(max_size=60_000), max_size=6), st.lists(st.integers(0, 400_000), max_size=10))
def test_acknowledged_is_never_more_than_received_and_in_the_end_all(
    bodies: list[bytes], cuts: list[int]
) -> None:
    acked: list[int] = []
    buffer, received = Buffer(acked.append), 0
    for piece in pieces_of(framed(bodies), cuts):
        buffer.add(piece, len(piece))
        received += len(piece)
        while buffer.take_message(1 << 20) is not None:
            assert sum(acked) <= received
        buffer._ack_all()
        assert 0 <= received - sum(acked) < 16 << 10
    assert sum(acked) + buffer.unacked_size() == received


async def test_message_larger_than_the_window_is_acknowledged_as_it_comes() -> None:
    acked: list[int] = []
    buffer = Buffer(acked.append)
    body = b"x" * 200_000
    data = framed([body])
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            assert await buffer.next_message(1 << 20) == body

        nursery.start_soon(read)
        for start in range(0, len(data), 50_000):
            await trio.testing.wait_all_tasks_blocked()
            assert start - sum(acked) < 20_000
            piece = data[start : start + 50_000]
            buffer.add(piece, len(piece))
    assert sum(acked) + buffer.unacked_size() == len(data)


async def test_cancelled_reader_loses_nothing() -> None:
    buffer = Buffer(lambda _: None)
    data = framed([b"abc"])
    buffer.add(data[:6], 6)
    with trio.move_on_after(0.01) as scope:
        await buffer.next_message(LIMIT)
    assert scope.cancelled_caught
    buffer.add(data[6:], len(data) - 6)
    assert await buffer.next_message(LIMIT) == b"abc"


async def test_end_without_a_message_is_none() -> None:
    buffer = Buffer(lambda _: None)
    buffer.eof()
    assert await buffer.next_message(LIMIT) is None
