"""Frames through wsproto: one after the other, and nothing left when it is at rest."""

from __future__ import annotations

import pytest

from conn_server.frames import parse_header
from conn_server.unusual import Outcome, Unusual, Violation
from tests.conn_server.raw import CLOSE, CONTINUATION, PING, PONG, TEXT, close, fragments, frame

NOTHING = Outcome(None, b"", None)


def begin(unusual: Unusual, data: bytes) -> None:
    header = parse_header(data, 0)
    assert header is not None
    unusual.begin(header, data[: header.head_bytes])


def take(unusual: Unusual, data: bytes, piece: int = 1 << 20) -> Outcome:
    """Give it one frame, in pieces; return what the last led to."""
    begin(unusual, data)
    outcome = NOTHING
    for at in range(0, len(data), piece):
        assert outcome == NOTHING
        outcome = unusual.feed(data[at : at + piece])
    assert unusual.missing_bytes == 0
    return outcome


def new_unusual(frame_bytes: int = 1 << 20, message_bytes: int = 1 << 20) -> Unusual:
    return Unusual(frame_bytes, message_bytes)


@pytest.mark.parametrize("piece", [1 << 20, 1, 7])
def test_big_frame_is_one_message_however_it_comes(piece: int) -> None:
    unusual = new_unusual()
    assert take(unusual, frame(b"x" * 5000), piece).message == b"x" * 5000
    assert unusual.is_at_rest


@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_text_is_given_as_its_bytes_wherever_it_is_cut(piece: int) -> None:
    unusual = new_unusual()
    text = "κόσμε€".encode()
    *most, last = fragments(text, 2, TEXT)
    for part in most:
        assert take(unusual, part, piece) == NOTHING
        assert not unusual.is_at_rest
    assert take(unusual, last, piece).message == text
    assert unusual.is_at_rest


@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_control_frame_amid_a_message_is_answered_and_changes_nothing(piece: int) -> None:
    unusual = new_unusual()
    assert take(unusual, frame(b"a", 0x02), piece) == NOTHING
    assert take(unusual, frame(b"p", PING), piece) == Outcome(None, b"\x8a\x01p", None)
    assert take(unusual, frame(b"q", PONG), piece) == NOTHING
    assert not unusual.is_at_rest
    assert take(unusual, frame(b"b", CONTINUATION), piece).message == b"ab"
    assert unusual.is_at_rest


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (frame(b"", CLOSE), Outcome(None, b"\x88\x00", 1005)),
        (close(1000), Outcome(None, b"\x88\x02\x03\xe8", 1000)),
        (close(4000, b"bye"), Outcome(None, b"\x88\x05\x0f\xa0bye", 4000)),
    ],
)
def test_close_is_answered_with_its_own_code(data: bytes, outcome: Outcome) -> None:
    assert take(new_unusual(), data) == outcome


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"a", 0xC2), 1002),
        (frame(b"a", 0x83), 1002),
        (frame(b"a", key=None), 1002),
        (frame(b"a", CONTINUATION), 1002),
        (frame(b"a", 0x09), 1002),
        (frame(b"a" * 126, PING), 1002),
        (frame(b"\xff" * 5000, TEXT), 1007),
        (close(1005), 1002),
        (close(1000, b"\xff"), 1007),
    ],
)
def test_what_is_wrong_is_a_violation(data: bytes, code: int) -> None:
    with pytest.raises(Violation) as caught:
        take(new_unusual(), data)
    assert caught.value.code == code


def test_frame_over_its_limit_is_judged_by_its_header() -> None:
    begin(new_unusual(100), frame(b"", length=100))
    with pytest.raises(Violation) as caught:
        begin(new_unusual(100), frame(b"", length=101))
    assert caught.value.code == 1009


@pytest.mark.parametrize(
    "data",
    [frame(b"", length=101, key=None), frame(b"", 0xC2, length=101), frame(b"", length=1 << 63)],
)
def test_what_is_worse_in_a_header_over_the_limit_comes_first(data: bytes) -> None:
    with pytest.raises(Violation) as caught:
        begin(new_unusual(100), data)
    assert caught.value.code == 1002


@pytest.mark.parametrize("first", [0x01, 0x02])
def test_message_over_its_limit_is_refused_at_the_piece_that_is_too_much(first: int) -> None:
    unusual = new_unusual(100, 150)
    take(unusual, frame(b"x" * 100, first))
    with pytest.raises(Violation) as caught:
        take(unusual, frame(b"x" * 51, CONTINUATION))
    assert caught.value.code == 1009


def test_size_is_counted_anew_for_each_message() -> None:
    unusual = new_unusual(100, 150)
    for _ in range(3):
        take(unusual, frame(b"x" * 100, 0x02))
        assert take(unusual, frame(b"x" * 50, CONTINUATION)).message == b"x" * 150


def test_tiny_fragments_do_not_cost_an_object_each() -> None:
    unusual = new_unusual()
    take(unusual, frame(b"", 0x02))
    for _ in range(5000):
        take(unusual, frame(b"x", 0x00))
        assert unusual._parts is not None
        assert len(unusual._parts) <= 257
    assert take(unusual, frame(b"", CONTINUATION)).message == b"x" * 5000
