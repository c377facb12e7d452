"""Commands to bytes and bytes to frames, against golden bytes and an own encoder of frames."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from runtime.queue.nsq import codec
from runtime.queue.nsq.codec import Codec, Frame, Message, Reply
from runtime.queue.nsq.errors import CommandRefused, ProtocolError

NUMBER = "0123456789abcdef"


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">ii", len(payload) + 4, kind) + payload


def message(body: bytes, attempts: int = 1) -> bytes:
    return frame(2, struct.pack(">qH", 1_700_000_000_000_000_000, attempts) + NUMBER.encode() + body)


FRAMES: list[tuple[bytes, Frame]] = [
    (frame(0, b"OK"), Reply(b"OK")),
    (frame(0, b"_heartbeat_"), Reply(codec.HEARTBEAT)),
    (message(b"hello"), Message(NUMBER, 1, 1_700_000_000_000_000_000, b"hello")),
    (message(b"x", 65535), Message(NUMBER, 65535, 1_700_000_000_000_000_000, b"x")),
    (message(b"y" * 10_000), Message(NUMBER, 1, 1_700_000_000_000_000_000, b"y" * 10_000)),
]
STREAM = b"".join(raw for raw, _ in FRAMES)
EXPECTED = [expected for _, expected in FRAMES]


@pytest.mark.parametrize(
    ("encoded", "wire"),
    [
        (codec.mpub("t", [b"a"]), b"MPUB t\n\0\0\0\x09\0\0\0\x01\0\0\0\x01a"),
        (codec.mpub("t", [b"a", b"bc"]), b"MPUB t\n\0\0\0\x0f\0\0\0\x02\0\0\0\x01a\0\0\0\x02bc"),
        (codec.sub("t", "c#ephemeral"), b"SUB t c#ephemeral\n"),
        (codec.rdy(0), b"RDY 0\n"),
        (codec.fin(NUMBER), b"FIN 0123456789abcdef\n"),
        (codec.req(NUMBER, 0), b"REQ 0123456789abcdef 0\n"),
        (codec.touch(NUMBER), b"TOUCH 0123456789abcdef\n"),
        (codec.auth("s"), b"AUTH\n\0\0\0\x01s"),
        (codec.identify({"tls_v1": True}), b'IDENTIFY\n\0\0\0\x0f{"tls_v1":true}'),
        (codec.NOP, b"NOP\n"),
        (codec.CLS, b"CLS\n"),
    ],
)
def test_command_is_encoded_as_the_protocol_says(encoded: bytes, wire: bytes) -> None:
    assert encoded == wire


def test_frames_are_read_whole() -> None:
    assert list(Codec().frames(STREAM)) == EXPECTED


def test_frames_are_read_byte_by_byte() -> None:
    reader = Codec()
    assert [got for byte in STREAM for got in reader.frames(bytes([byte]))] == EXPECTED


def test_tail_waits_for_its_rest() -> None:
    reader = Codec()
    assert list(reader.frames(STREAM + message(b"tail")[:7])) == EXPECTED
    (rest,) = reader.frames(message(b"tail")[7:])
    assert rest == Message(NUMBER, 1, 1_700_000_000_000_000_000, b"tail")


@given(st.lists(st.binary(max_size=9000), max_size=8), st.lists(st.integers(1, 5000), min_size=1, max_size=8))
def test_frames_do_not_depend_on_how_bytes_arrive(bodies: list[bytes], pieces: list[int]) -> None:
    stream, reader, came = b"".join(map(message, bodies)), Codec(), list[Frame]()
    at = turn = 0
    while at < len(stream):
        piece = pieces[turn % len(pieces)]
        came += reader.frames(stream[at : at + piece])
        at, turn = at + piece, turn + 1
    assert [got.body for got in came if isinstance(got, Message)] == bodies


def test_error_frame_becomes_a_refusal() -> None:
    (refusal,) = Codec().frames(frame(1, b"E_BAD_MESSAGE PUB message too big 5 > 4"))
    assert isinstance(refusal, CommandRefused)
    assert (refusal.code, refusal.text) == ("E_BAD_MESSAGE", "PUB message too big 5 > 4")


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack(">i", 3) + b"abc",  # no room for a type
        struct.pack(">i", -1),
        struct.pack(">i", (16 << 20) + 1),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(3, b"what"),
        frame(1, b"E_INVALID"),  # ansq wants an explanation, too
        frame(2, b"shorter than a head"),
        frame(2, b"\0" * 10 + b"\xff" * 16 + b"body"),  # an id that is no text
    ],
)
def test_what_is_no_frame_ends_the_connection(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Codec().frames(frame(0, b"OK") + garbage))


@given(st.binary(max_size=200))
def test_nothing_but_a_protocol_error_comes_from_garbage(garbage: bytes) -> None:
    with suppress(ProtocolError):
        list(Codec().frames(garbage))


def test_body_is_bounded_and_never_empty() -> None:
    assert codec.body_problem(b"xx", 2) is None
    assert codec.body_problem(b"", 2) is not None
    assert codec.body_problem(b"xxx", 2) is not None


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=20))
def test_size_of_an_mpub_is_known_before_it_is_made(bodies: list[bytes]) -> None:
    head = len(b"MPUB t\n") + 4
    assert len(codec.mpub("t", bodies)) == head + codec.MPUB_BYTES + codec.mpub_bytes(bodies)
