"""The outbox as a transcript, and against a list that says the same in the simplest way."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, strategies as st

from conn_server.outbox import Frames, Outbox
from schema.message import Level

NORMAL, IMPORTANT = Level.NORMAL, Level.IMPORTANT


def new_outbox(soft: int = 10, hard: int = 20) -> Outbox:
    return Outbox(soft, hard, 0.0)


def drained(outbox: Outbox) -> list[bytes]:
    frames = []
    while (frame := outbox.first()) is not None:
        frames.append(bytes(frame))
        outbox.sent(len(frame), 1.0)
    return frames


@pytest.mark.parametrize(
    ("offered", "dropped", "kept"),
    [
        pytest.param([(b"12345", NORMAL), (b"67890", NORMAL)], 0, [b"12345", b"67890"], id="fits"),
        pytest.param(
            [(b"12345", NORMAL), (b"oldest", NORMAL), (b"new", NORMAL)],
            1,
            [b"12345", b"new"],
            id="oldest goes",
        ),
        pytest.param(
            [(b"123456", NORMAL), (b"itself", NORMAL)], 1, [b"123456"], id="the one offered included"
        ),
        pytest.param([(b"x" * 30, NORMAL), (b"a", NORMAL)], 1, [b"x" * 30], id="the first stays at any size"),
        pytest.param(
            [(b"1", IMPORTANT), (b"normal", NORMAL), (b"22222222", IMPORTANT)],
            1,
            [b"1", b"22222222"],
            id="important ones push normal ones out",
        ),
        pytest.param(
            [(b"1", NORMAL), (b"2222222", IMPORTANT), (b"33", NORMAL), (b"4444", IMPORTANT)],
            1,
            [b"1", b"2222222", b"4444"],
            id="important ones stay over the soft limit",
        ),
    ],
)
def test_over_the_soft_limit(offered: list[tuple[bytes, Level]], dropped: int, kept: list[bytes]) -> None:
    outbox = new_outbox()
    assert sum(outbox.offer(frame, level) for frame, level in offered) == dropped
    assert len(outbox) == len(kept)
    assert drained(outbox) == kept
    assert outbox.size_bytes == 0


def test_important_frames_beyond_the_hard_limit_are_overfull() -> None:
    outbox = new_outbox()
    outbox.offer(b"x" * 20, IMPORTANT)
    assert not outbox.is_overfull
    outbox.offer(b"y", IMPORTANT)
    assert outbox.is_overfull


def test_half_written_frame_is_never_dropped() -> None:
    outbox = new_outbox()
    outbox.offer(b"12345678", NORMAL)
    outbox.sent(3, 1.0)
    assert outbox.offer(b"x" * 10, NORMAL) == 1
    assert drained(outbox) == [b"45678"]


def test_frame_that_has_become_the_first_is_never_dropped() -> None:
    outbox = new_outbox()
    outbox.offer(b"first", NORMAL)
    outbox.offer(b"secnd", NORMAL)
    outbox.sent(5, 1.0)
    outbox.offer(b"x" * 8, IMPORTANT)
    outbox.offer(b"y" * 8, IMPORTANT)
    assert drained(outbox) == [b"secnd", b"x" * 8, b"y" * 8]


def test_progress_is_noted() -> None:
    outbox = new_outbox()
    outbox.offer(b"abc", NORMAL)
    outbox.sent(1, 5.0)
    assert (outbox.progress_at, outbox.size_bytes) == (5.0, 2)


def test_clearing_leaves_the_first() -> None:
    outbox = new_outbox(soft=100)
    for frame in (b"abc", b"def", b"ghi"):
        outbox.offer(frame, NORMAL)
    outbox.offer(b"jkl", IMPORTANT)
    outbox.sent(1, 1.0)
    assert outbox.clear() == Frames(normal=2, important=1)
    assert (outbox.size_bytes, outbox.frames) == (2, Frames(normal=1, important=0))
    outbox.offer(b"close", IMPORTANT)
    assert drained(outbox) == [b"bc", b"close"]


@dataclass
class NaiveOutbox:
    soft: int
    hard: int
    frames: list[tuple[bytes, Level]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(len(frame) for frame, _ in self.frames)

    def offer(self, frame: bytes, level: Level) -> int:
        self.frames.append((frame, level))
        dropped = 0
        while self.size > self.soft:
            normal = [at for at, (_, kind) in enumerate(self.frames) if at and kind is NORMAL]
            if not normal:
                break
            del self.frames[normal[0]]
            dropped += 1
        return dropped

    def sent(self, size: int) -> None:
        frame, level = self.frames[0]
        self.frames[:1] = [(frame[size:], level)] if size < len(frame) else []


def count(frames: list[tuple[bytes, Level]]) -> Frames:
    levels = [level for _, level in frames]
    return Frames(levels.count(NORMAL), levels.count(IMPORTANT))


steps = st.lists(
    st.one_of(
        st.tuples(st.binary(min_size=1, max_size=9), st.sampled_from(Level)),
        st.integers(1, 9),
        st.just("clear"),
    ),
    max_size=60,
)


@given(steps, st.integers(1, 30), st.integers(0, 20))
def test_is_what_the_naive_model_is(
    steps: list[tuple[bytes, Level] | int | str], soft: int, more: int
) -> None:
    outbox, model = Outbox(soft, soft + more, 0.0), NaiveOutbox(soft, soft + more)
    for step in steps:
        if isinstance(step, tuple):
            assert outbox.offer(*step) == model.offer(*step)
        elif isinstance(step, int):
            first = outbox.first()
            if first is not None:
                size = min(step, len(first))
                outbox.sent(size, 1.0)
                model.sent(size)
        else:
            lost = count(model.frames[1:])
            assert outbox.clear() == lost
            del model.frames[1:]
        assert outbox.frames == count(model.frames)
        assert (len(outbox), outbox.size_bytes) == (len(model.frames), model.size)
        assert outbox.is_overfull == (model.size > model.hard)
        first = outbox.first()
        assert (None if first is None else bytes(first)) == (model.frames[0][0] if model.frames else None)
    assert drained(outbox) == [frame for frame, _ in model.frames]
