"""Frames, whole: sizes and bytes, each read whole, byte by byte and with a tail."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from conn_server.frames import CLOSE, Header, encode_frame, parse_header, unmask
from tests.conn_server.raw import frame, parse_frames

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1 << 40, (1 << 63) - 1, 1 << 63]
keys = st.binary(min_size=4, max_size=4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("first", [0x82, 0x01, 0x88, 0xFF])
def test_header_is_read_whole_byte_by_byte_and_with_a_tail(size: int, is_masked: bool, first: int) -> None:
    head = frame(b"", first, length=size, key=b"\x01\x02\x03\x04" if is_masked else None)
    expected = Header(first, is_masked, len(head), size)
    assert parse_header(head, 0) == expected
    assert all(parse_header(head[:end], 0) is None for end in range(len(head)))
    assert parse_header(b"before" + head + b"after", 6) == expected
    assert expected.whole_bytes == len(head) + size


@pytest.mark.parametrize(
    ("head", "is_plain"),
    [
        (frame(b"", 0x82, length=0), True),
        (frame(b"", 0x81, length=125), True),
        (frame(b"", 0x82, length=126), True),
        (frame(b"", 0x82, length=65535), True),
        (frame(b"", 0x82, length=65536), True),
        (frame(b"", 0x82, key=None), False),
        (frame(b"", 0x02), False),
        (frame(b"", 0x80), False),
        (frame(b"", 0x89), False),
        (frame(b"", 0x88), False),
        (frame(b"", 0xC2), False),
        (frame(b"", 0x83), False),
        (frame(b"", 0x82, length=125, form=126), False),
        (frame(b"", 0x82, length=126, form=127), False),
        (frame(b"", 0x82, length=65535, form=127), False),
    ],
)
def test_plain_is_a_whole_masked_data_message_with_the_shortest_length(head: bytes, is_plain: bool) -> None:
    header = parse_header(head, 0)
    assert header is not None
    assert header.is_plain is is_plain


@given(st.binary(max_size=40), st.integers(0, 40))
def test_any_bytes_are_a_header_or_not_one_yet(data: bytes, at: int) -> None:
    header = parse_header(data, at)
    if header is not None:
        assert 2 <= header.head_bytes <= 14
        assert header.head_bytes <= len(data) - at
        assert parse_header(data[: at + header.head_bytes], at) == header
        assert parse_header(data[: at + header.head_bytes - 1], at) is None


@given(st.binary(max_size=1000), keys)
def test_unmasking_is_byte_for_byte_what_the_rfc_says(payload: bytes, key: bytes) -> None:
    masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    assert unmask(masked, key) == payload


@given(st.one_of(st.binary(max_size=200), st.sampled_from([b"x" * size for size in SIZES[:7]])))
def test_encoded_frame_is_read_back_by_another_reader(payload: bytes) -> None:
    assert parse_frames(encode_frame(payload) + b"\x82") == ([(0x82, payload)], b"\x82")
    assert encode_frame(payload, CLOSE)[0] == 0x88


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, "82 00"),
        (125, "82 7d"),
        (126, "82 7e 00 7e"),
        (65535, "82 7e ff ff"),
        (65536, "82 7f 00 00 00 00 00 01 00 00"),
    ],
)
def test_encoded_header_has_the_shortest_length(size: int, head: str) -> None:
    assert encode_frame(b"x" * size) == bytes.fromhex(head) + b"x" * size
