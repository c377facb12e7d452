"""Our connection and plain wsproto say the same, whatever comes and however it is cut.

`python -m tests.conn_server.fuzz` goes on for longer.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from tests.conn_server.fuzz import END, check, cut, make
from tests.conn_server.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame

FRAMES = (
    *(
        frame(payload, first)
        for payload in (b"", b"ab", b"x" * 126)
        for first in (BINARY, TEXT, 0x01, 0x02, 0x00)
    ),
    *(frame(payload, CONTINUATION) for payload in (b"", b"ab", b"x" * 5000)),
    frame(b"\xce", 0x01),
    frame(b"\xba", CONTINUATION),
    frame(b"\xff", TEXT),
    frame(b"y" * 5000),
    frame(b"z" * 70_000),
    frame(b"ping", PING),
    frame(b"", PONG),
    frame(b"a", key=None),
    frame(b"a", 0xC2),
    frame(b"a", 0x83),
    frame(b"a", 0x09),
    frame(b"a" * 126, PING),
    frame(b"a", form=126),
    frame(b"a", length=(1 << 63) - 1),
    frame(b"", CLOSE),
    close(1000),
    close(4000, b"bye"),
    close(1005),
)


# Async for Trio's clock, which a poller reads.
@given(st.lists(st.sampled_from(FRAMES), max_size=8), st.randoms(use_true_random=False), st.booleans())
async def test_frames_cut_at_random_places(frames: list[bytes], rnd: random.Random, pauses: bool) -> None:
    check(cut(rnd, b"".join(frames)), rnd if pauses else None)


@given(st.lists(st.binary(max_size=300), max_size=6))
async def test_any_bytes(pieces: list[bytes]) -> None:
    check([*filter(None, pieces), END], None)


@pytest.mark.parametrize("seed", range(100, 120))
async def test_conversations(seed: int) -> None:
    rnd = random.Random(seed)
    for _ in range(5):
        check(make(rnd), rnd)


async def test_difference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conn_server.connection.parse_header", lambda data, at: None)
    with pytest.raises(AssertionError):
        check([frame(b"ping", PING)], None)
