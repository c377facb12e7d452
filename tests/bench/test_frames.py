from __future__ import annotations

from base64 import b64decode

import pytest
from hypothesis import given, strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage

from bench.frames import (
    BINARY,
    CLOSE,
    MAX_HEAD_BYTES,
    PING,
    Frame,
    Refused,
    Upgrade,
    masked,
    read_head,
    retry_after_of,
    split,
)

SAMPLE = Upgrade.to("example.com", "/room", b64decode("dGhlIHNhbXBsZSBub25jZQ=="))  # RFC 6455 section 1.3
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def as_wsproto_reads(data: bytes) -> bytes:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    messages = [event for event in server.events() if isinstance(event, BytesMessage)]
    assert messages[-1].message_finished
    return b"".join(bytes(message.data) for message in messages)


@given(st.binary(max_size=140), st.binary(min_size=4, max_size=4))
def test_masked_frame_is_what_wsproto_reads(payload: bytes, key: bytes) -> None:
    assert as_wsproto_reads(masked(payload, key)) == payload


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536])
def test_each_way_to_write_a_length_of_a_masked_frame(size: int) -> None:
    payload = bytes(range(256)) * 257
    assert as_wsproto_reads(masked(payload[:size], b"key!")) == payload[:size]


def server_frames(payloads: list[bytes]) -> bytes:
    server = Connection(ConnectionType.SERVER)
    return b"".join(server.send(BytesMessage(data=payload)) for payload in payloads)


payload_lists = st.lists(st.binary(max_size=200), max_size=5)


@given(payload_lists)
def test_frames_are_split_whole(payloads: list[bytes]) -> None:
    frames, rest = split(server_frames(payloads))
    assert frames == [Frame(is_final=True, opcode=BINARY, payload=payload) for payload in payloads]
    assert rest == b""


@given(payload_lists)
def test_frames_are_split_byte_by_byte(payloads: list[bytes]) -> None:
    found: list[Frame] = []
    rest = b""
    for byte in server_frames(payloads):
        frames, rest = split(rest + bytes((byte,)))
        found += frames
    assert [frame.payload for frame in found] == payloads
    assert rest == b""


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536])
def test_each_way_to_write_a_length_and_a_tail(size: int) -> None:
    data = server_frames([b"x" * size])
    frames, rest = split(data + b"\x89")
    assert [len(frame.payload) for frame in frames] == [size]
    assert rest == b"\x89"
    assert split(data[:-1]) == ([], data[:-1])


def test_control_frames_are_told_apart() -> None:
    frames, _ = split(b"\x89\x02hi\x88\x02\x03\xe8\x02\x00")
    assert [(frame.opcode, frame.is_final) for frame in frames] == [
        (PING, True),
        (CLOSE, True),
        (BINARY, False),
    ]


def test_upgrade_asks_and_knows_its_answer() -> None:
    assert SAMPLE.request.startswith(b"GET /room HTTP/1.1\r\nHost: example.com\r\n")
    assert b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" in SAMPLE.request
    assert SAMPLE.answered(ACCEPTED + b"\x82\x00") == b"\x82\x00"
    assert all(SAMPLE.answered(ACCEPTED[:size]) is None for size in range(len(ACCEPTED)))


@pytest.mark.parametrize(
    ("answer", "status", "retry_after_s"),
    [
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n", 503, 7.0),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 400, None),
        (ACCEPTED.replace(b"s3pP", b"xxxx"), 101, None),
        (b"SSH-2.0 hello\r\n\r\n", 0, None),
        (b"x" * (MAX_HEAD_BYTES + 1), 0, None),
    ],
)
def test_other_answers_are_refusals(answer: bytes, status: int, retry_after_s: float | None) -> None:
    with pytest.raises(Refused) as refused:
        SAMPLE.answered(answer)
    assert (refused.value.status, refused.value.retry_after_s) == (status, retry_after_s)


def test_head_is_read_with_names_in_lower_case() -> None:
    assert read_head(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a:b") == (
        200,
        {b"content-length": b"2", b"x": b"a:b"},
    )
    assert retry_after_of({b"retry-after": b"Wed, 21 Oct 2026 07:28:00 GMT"}) is None
