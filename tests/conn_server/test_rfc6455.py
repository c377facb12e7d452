"""RFC 6455 at a server that echoes: the case groups of the Autobahn suite that apply.

Each case is sent three ways: as one piece, byte by byte, and coalesced with a message before it and one
after it; in clear text and over TLS.  Groups 12 and 13 are about compression, which is never accepted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from conn_server.connection import CLOSING, Limits
from tests.conn_server.conftest import Tls
from tests.conn_server.driven import Door, open_door
from tests.conn_server.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close,
    close_code,
    cut_bytewise,
    fragments,
    frame,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

MIB = 1 << 20
LIMITS = Limits(
    max_frame_bytes=8 * MIB,
    max_message_bytes=8 * MIB,
    outbox_soft_bytes=64 * MIB,
    outbox_hard_bytes=64 * MIB,
)
BIG = b"ok" * 2100
"""Beyond what a frame waits for its end for."""
BEFORE, AFTER = frame(b"before"), frame(b"after")


class Case(NamedTuple):
    """What is sent, what is answered, and with what code the server closes (None: it does not)."""

    name: str
    data: bytes
    answers: tuple[Frame, ...] = ()
    code: int | None = None


def echoed(*payloads: bytes) -> tuple[Frame, ...]:
    return tuple((BINARY, payload) for payload in payloads)


def begun(first: int) -> int:
    """Return the first byte of the same frame with more to follow."""
    return first & 0x7F


KINDS = (("text", TEXT, b"*"), ("binary", BINARY, b"\xfe"))


def framing() -> Iterator[Case]:
    """Group 1: sizes on both sides of every form of the length."""
    for kind, first, byte in KINDS:
        for size in (0, 1, 125, 126, 127, 128, 65535, 65536):
            yield Case(f"1 {kind} of {size}", frame(byte * size, first), echoed(byte * size))
    for key in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0", b"\x80\x81\x82\x88"):
        yield Case(f"1 mask {key.hex()}", frame(b"masked" * 30, key=key), echoed(b"masked" * 30))
    for name, data in {
        "not masked": frame(b"a", key=None),
        "empty and not masked": frame(key=None),
        "not masked and big": frame(b"a" * 70_000, key=None),
        "16-bit length of 0": frame(b"", form=126),
        "16-bit length of 125": frame(b"a" * 125, form=126),
        "64-bit length of 125": frame(b"a" * 125, form=127),
        "64-bit length of 65535": frame(b"a" * 65535, form=127),
        "64-bit length with the top bit": frame(b"", length=1 << 63) + bytes(9),
    }.items():
        yield Case(f"1 {name}", data, code=1002)


def pings() -> Iterator[Case]:
    """Group 2."""
    for name, payload in {
        "nothing": b"",
        "text": b"Hello, world!",
        "bytes": b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff",
        "125": b"\xfe" * 125,
    }.items():
        yield Case(f"2 ping with {name}", frame(payload, PING), ((PONG, payload),))
    yield Case("2 ping of 126", frame(b"\xfe" * 126, PING), code=1002)
    yield Case("2 ping that is not masked", frame(b"a", PING, key=None), code=1002)
    yield Case("2 pong unasked, empty", frame(b"", PONG))
    yield Case("2 pong unasked", frame(b"unsolicited", PONG))
    yield Case("2 pong of 126", frame(b"\xfe" * 126, PONG), code=1002)
    yield Case("2 pong unasked, then ping", frame(b"a", PONG) + frame(b"b", PING), ((PONG, b"b"),))
    ten = [b"payload-%d" % number for number in range(10)]
    yield Case("2 ten pings", b"".join(frame(p, PING) for p in ten), tuple((PONG, p) for p in ten))


def reserved_bits() -> Iterator[Case]:
    """Group 3: no extension was agreed upon, so no such bit may be set."""
    for rsv in range(1, 8):
        bits = rsv << 4
        for name, first in (
            ("text", TEXT),
            ("binary", BINARY),
            ("ping", PING),
            ("pong", PONG),
            ("close", CLOSE),
        ):
            payload = b"" if first == CLOSE else b"Hello"
            yield Case(f"3 rsv {rsv} {name}", frame(payload, first | bits), code=1002)
        yield Case(
            f"3 text, rsv {rsv} text, ping",
            frame(b"a", TEXT) + frame(b"b", TEXT | bits) + frame(b"", PING),
            echoed(b"a"),
            1002,
        )
        yield Case(
            f"3 rsv {rsv} in a continuation",
            frame(b"a", begun(TEXT)) + frame(b"b", CONTINUATION | bits),
            code=1002,
        )


def opcodes() -> Iterator[Case]:
    """Group 4: all that the RFC reserves."""
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        first = 0x80 | opcode
        yield Case(f"4 opcode {opcode}", frame(b"", first), code=1002)
        yield Case(f"4 opcode {opcode} with a payload", frame(b"reserved", first), code=1002)
        yield Case(f"4 opcode {opcode} not final", frame(b"reserved", begun(first)), code=1002)
        yield Case(
            f"4 text, opcode {opcode}, ping",
            frame(b"a", TEXT) + frame(b"", first) + frame(b"", PING),
            echoed(b"a"),
            1002,
        )


def fragmentation() -> Iterator[Case]:
    """Group 5."""
    for name, first in (("ping", PING), ("pong", PONG), ("close", CLOSE)):
        yield Case(f"5 {name} in two", frame(b"", begun(first)) + frame(b"b", CONTINUATION), code=1002)
    for kind, first, _ in KINDS:
        a, b = frame(b"fragment1", begun(first)), frame(b"fragment2", CONTINUATION)
        yield Case(f"5 {kind} in two", a + b, echoed(b"fragment1fragment2"))
        yield Case(
            f"5 {kind} in two with a ping between",
            a + frame(b"ping", PING) + b,
            ((PONG, b"ping"), (BINARY, b"fragment1fragment2")),
        )
        yield Case(
            f"5 {kind} in two with a pong between", a + frame(b"", PONG) + b, echoed(b"fragment1fragment2")
        )
        yield Case(
            f"5 {kind} in two, both empty", frame(b"", begun(first)) + frame(b"", CONTINUATION), echoed(b"")
        )
        yield Case(
            f"5 {kind} in four with pings between",
            b"".join(
                frame(b"%d" % n, opcode) + frame(b"p%d" % n, PING)
                for n, opcode in enumerate((begun(first), 0x00, 0x00))
            )
            + frame(b"3", CONTINUATION),
            ((PONG, b"p0"), (PONG, b"p1"), (PONG, b"p2"), (BINARY, b"0123")),
        )
        yield Case(
            f"5 {kind} in 300 of one byte", b"".join(fragments(b"x" * 300, 1, first)), echoed(b"x" * 300)
        )
        yield Case(
            f"5 {kind} in big ones", b"".join(fragments(b"x" * 30_000, 9000, first)), echoed(b"x" * 30_000)
        )
        for name, second in (("text", TEXT), ("binary", BINARY), ("text that is not final", begun(TEXT))):
            yield Case(f"5 {kind} begun, then {name}", a + frame(b"new", second), code=1002)
        yield Case(f"5 {kind} begun, then a big one", a + frame(b"n" * 9000, BINARY), code=1002)
        yield Case(f"5 {kind} begun, then close", a + close(1000), code=1000)
        yield Case(f"5 {kind} begun, then not masked", a + frame(b"b", CONTINUATION, key=None), code=1002)
    for name, first in (("final", CONTINUATION), ("not final", 0x00)):
        yield Case(f"5 {name} continuation of nothing", frame(b"a", first), code=1002)
        yield Case(
            f"5 {name} continuation after a whole message",
            frame(b"whole", TEXT) + frame(b"a", first) + frame(b"late", TEXT),
            echoed(b"whole"),
            1002,
        )
        yield Case(
            f"5 {name} continuation after a fragmented message",
            frame(b"a", begun(TEXT)) + frame(b"b", CONTINUATION) + frame(b"c", first),
            echoed(b"ab"),
            1002,
        )


GOOD_UTF8 = {
    "Hello-µ@ßöäüàá-UTF-8!!": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "kosme": "κόσμε".encode(),
    "nul": b"\x00",
    "U+80": b"\xc2\x80",
    "U+7FF": b"\xdf\xbf",
    "U+800": b"\xe0\xa0\x80",
    "U+D7FF": b"\xed\x9f\xbf",
    "U+E000": b"\xee\x80\x80",
    "U+FFFD": b"\xef\xbf\xbd",
    "U+FFFF": b"\xef\xbf\xbf",
    "U+10000": b"\xf0\x90\x80\x80",
    "U+1FFFE": b"\xf0\x9f\xbf\xbe",
    "U+10FFFF": b"\xf4\x8f\xbf\xbf",
}
BAD_UTF8 = {
    "κόσμε, surrogate": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    "continuation alone": b"\x80",
    "last continuation alone": b"\xbf",
    "three continuations": b"\x80\xbf\x80",
    "start of two, space": b"\xc0 ",
    "cut start of two": b"\xc3",
    "cut start of three": b"\xe0\xa0",
    "cut start of four": b"\xf0\x90\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "U+110000": b"\xf4\x90\x80\x80",
    "FE": b"\xfe",
    "FF": b"\xff",
    "FE FE FF FF": b"\xfe\xfe\xff\xff",
    "overlong / of two": b"\xc0\xaf",
    "overlong / of three": b"\xe0\x80\xaf",
    "overlong / of four": b"\xf0\x80\x80\xaf",
    "overlong U+7F": b"\xc1\xbf",
    "overlong U+7FF": b"\xe0\x9f\xbf",
    "overlong U+FFFF": b"\xf0\x8f\xbf\xbf",
    "overlong nul": b"\xc0\x80",
    "first surrogate": b"\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbf",
    "pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
}


def utf8() -> Iterator[Case]:
    """Group 6: text is UTF-8 as a whole, wherever its fragments are cut."""
    for name, text in GOOD_UTF8.items():
        yield Case(f"6 {name}", frame(text, TEXT), echoed(text))
        yield Case(f"6 {name} in single bytes", b"".join(fragments(text, 1, TEXT)), echoed(text))
        yield Case(f"6 {name}, big", frame(text * 1000 + BIG, TEXT), echoed(text * 1000 + BIG))
    for name, text in BAD_UTF8.items():
        yield Case(f"6 bad: {name}", frame(text, TEXT), code=1007)
        yield Case(f"6 bad: {name} in single bytes", b"".join(fragments(text + b"!", 1, TEXT)), code=1007)
        yield Case(f"6 bad: {name}, big", frame(BIG + text, TEXT), code=1007)
        yield Case(f"6 {name} as binary", frame(text), echoed(text))
    whole = "κόσμε".encode()
    for end in range(1, len(whole)):
        is_good = whole[:end].decode(errors="ignore").encode() == whole[:end]
        yield Case(
            f"6 prefix of {end}",
            frame(whole[:end], TEXT),
            echoed(whole[:end]) if is_good else (),
            None if is_good else 1007,
        )
    yield Case(
        "6 three empty fragments", frame(b"", 0x01) + frame(b"", 0x00) + frame(b"", CONTINUATION), echoed(b"")
    )
    yield Case(
        "6 two empty fragments around one",
        frame(b"", 0x01) + frame(b"middle", 0x00) + frame(b"", CONTINUATION),
        echoed(b"middle"),
    )


def closing() -> Iterator[Case]:
    """Group 7: the peer's close is answered with its own code, and nothing after it counts."""
    yield Case("7 message, close", frame(b"a", TEXT) + close(1000), echoed(b"a"), 1000)
    yield Case("7 two closes", close(1000) + close(1000), code=1000)
    for name, late in {
        "ping": frame(b"", PING),
        "text": frame(b"late", TEXT),
        "binary": frame(b"late"),
        "garbage": b"\xff" * 50,
    }.items():
        yield Case(f"7 close, {name}", close(1000) + late, code=1000)
    yield Case(
        "7 big message, close, ping",
        frame(b"b" * (256 << 10)) + close(1000) + frame(b"", PING),
        echoed(b"b" * (256 << 10)),
        1000,
    )
    yield Case("7 without a code", frame(b"", CLOSE), code=0)
    yield Case("7 of one byte", frame(b"\x03", CLOSE), code=1002)
    yield Case("7 not masked", frame(b"\x03\xe8", CLOSE, key=None), code=1002)
    yield Case("7 with a reason", close(1000, b"Hello World!"), code=1000)
    yield Case("7 with the longest reason", close(1000, b"*" * 123), code=1000)
    yield Case("7 with a reason too long", close(1000, b"*" * 124), code=1002)
    yield Case("7 with a reason that is not UTF-8", close(1000, BAD_UTF8["κόσμε, surrogate"]), code=1007)
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        yield Case(f"7 code {code}", close(code), code=code)
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield Case(f"7 forbidden code {code}", close(code), code=1002)


def sizes() -> Iterator[Case]:
    """Groups 9 and 10: big messages, whole and in fragments of every size."""
    for kind, first, byte in KINDS:
        for size in (256 << 10, MIB):
            yield Case(f"9 {kind} of {size}", frame(byte * size, first), echoed(byte * size))
        for part in (64, 256, 4 << 10, 64 << 10, 256 << 10):
            payload = byte * min(MIB // 2, part * 500)
            yield Case(
                f"9 {kind} in parts of {part}", b"".join(fragments(payload, part, first)), echoed(payload)
            )
    yield Case("10 in parts of 1300", b"".join(fragments(b"*" * 65536, 1300, TEXT)), echoed(b"*" * 65536))


CASES = [
    case
    for group in (framing, pings, reserved_bits, opcodes, fragmentation, utf8, closing, sizes)
    for case in group()
]


GROUPS = list(dict.fromkeys(case.name.split()[0] for case in CASES))


@pytest.fixture(params=["plain", "tls"])
async def door(request: pytest.FixtureRequest, tls: Tls) -> AsyncIterator[Door]:
    with open_door(limits=LIMITS, tls=tls.both if request.param == "tls" else None) as door:
        yield door


def check(door: Door, case: Case, way: str) -> None:
    connection, _, peer = door.enter()
    expected = list(case.answers)
    if way == "whole":
        peer.say(case.data)
    elif way == "bytewise":
        peer.say(*cut_bytewise(case.data))
    else:
        peer.say(BEFORE + case.data + AFTER)
        expected.insert(0, (BINARY, b"before"))
        if case.code is None:
            expected.append((BINARY, b"after"))
    heard = peer.frames()
    where = f"{case.name}, {way}"
    if case.code is not None:
        assert heard, where
        assert close_code(heard.pop()) == case.code, where
        assert peer.is_at_end, where
        assert connection.state == CLOSING, where
        assert (connection._unusual, connection._tail) == (None, b""), where
    else:
        assert (connection._unusual, connection._tail) == (None, b""), where
        peer.say(frame(b"alive"))
        assert peer.frames() == [(BINARY, b"alive")], where
    assert heard == expected, where
    connection.abort()


# One test for a group of cases: a fixture for each of 1 500 would cost more than the cases.
@pytest.mark.parametrize("way", ["whole", "bytewise", "coalesced"])
@pytest.mark.parametrize("group", GROUPS)
async def test_group(door: Door, group: str, way: str) -> None:
    for case in CASES:
        if case.name.split()[0] == group:
            check(door, case, way)


def test_every_group_that_applies_is_there() -> None:
    assert GROUPS == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "9",
        "10",
    ]
    assert len({case.name for case in CASES}) == len(CASES) > 350


# -- limits: what is too big is refused before it has come

SMALL = Limits(max_frame_bytes=1000, max_message_bytes=1500)


@pytest.mark.parametrize(
    ("data", "answers", "code"),
    [
        pytest.param(frame(b"x" * 1000), 1, None, id="frame at the limit"),
        pytest.param(frame(b"x" * 1001), 0, 1009, id="frame over the limit"),
        pytest.param(frame(b"x" * 1001, TEXT), 0, 1009, id="text over the limit"),
        pytest.param(frame(b"", length=5000), 0, 1009, id="from the header alone"),
        pytest.param(frame(b"", length=1 << 40), 0, 1009, id="a terabyte"),
        pytest.param(frame(b"", length=1 << 63), 0, 1002, id="more than there can be"),
        pytest.param(frame(b"", length=1 << 40, key=None), 0, 1002, id="a terabyte that is not masked"),
        pytest.param(frame(b"", 0xC2, length=1 << 40), 0, 1002, id="a terabyte with a reserved bit"),
        pytest.param(frame(b"", 0x83, length=1 << 40), 0, 1002, id="a terabyte of an unknown opcode"),
        pytest.param(frame(b"x", 0x02) + frame(b"y" * 1001, 0x00), 0, 1009, id="continuation over the limit"),
        pytest.param(
            frame(b"x" * 750, 0x02) + frame(b"y" * 750, CONTINUATION), 1, None, id="message at the limit"
        ),
        pytest.param(
            frame(b"x" * 750, 0x02) + frame(b"y" * 751, CONTINUATION), 0, 1009, id="message over the limit"
        ),
        pytest.param(
            frame(b"x" * 750, 0x01) + frame(b"y" * 751, CONTINUATION),
            0,
            1009,
            id="text message over the limit",
        ),
        pytest.param(b"".join(fragments(b"z" * 1501, 1)), 0, 1009, id="in single bytes over the limit"),
        pytest.param(frame(b"", 0x02) + frame(b"", 0x00) * 3000, 0, None, id="empty fragments without end"),
    ],
)
@pytest.mark.parametrize("way", ["whole", "bytewise", "coalesced"])
async def test_limits(data: bytes, answers: int, code: int | None, way: str) -> None:
    with open_door(limits=SMALL) as door:
        connection, echo, peer = door.enter()
        if way == "coalesced":
            peer.say(BEFORE + data)
            assert echo.received.pop(0) == b"before"
        else:
            peer.say(*([data] if way == "whole" else cut_bytewise(data)))
        assert len(echo.received) == answers
        assert door.wire.statistics().closed == ({code: 1} if code else {})
        if connection._unusual is not None:
            assert len(connection._unusual._parts or ()) < 1000
