from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given, strategies as st

from job_worker.merge import RoomBatch, push_of
from schema.batch import HEAD_BYTES, pack, unpack
from schema.message import Level, Message


@dataclass(frozen=True)
class Said:
    message: Message


def said(text: str) -> Said:
    """Return a record of `text`; one that begins with `!` is IMPORTANT."""
    level = Level.IMPORTANT if text.startswith("!") else Level.NORMAL
    return Said(Message("r", level, text.encode()))


def texts(records: list[Said]) -> str:
    return " ".join(record.message.data.decode() for record in records)


def play(steps: str, batch: RoomBatch[Said]) -> Iterator[str]:
    """Yield what leaves in a transcript such as `0:a 0.5:b`, as `time:records`; flushes when due."""
    for step in steps.split():
        at, _, text = step.partition(":")
        now = float(at)
        if batch.due <= now:
            yield f"{batch.due:g}:{texts(batch.flush())}"
        for records in batch.add(said(text), now):
            yield f"{now:g}:{texts(records)}"
    if batch:
        yield f"{batch.due:g}:{texts(batch.flush())}"


TRANSCRIPTS = [
    ("the first one leaves at once", "5:a", ["5:a"]),
    ("what follows within a second is merged", "0:a 0.1:b 0.5:c", ["0:a", "1.1:b c"]),
    ("the wait is the first one's", "0:a 0.2:b 1.1:c 1.3:d", ["0:a", "1.2:b c", "2.3:d"]),
    ("after a quiet second at once again", "0:a 0.4:b 3:c 4:d", ["0:a", "1.4:b", "3:c", "4:d"]),
    ("a flush that the timer made is no quiet", "0:a 0.5:b 1.4:c 2.2:d", ["0:a", "1.5:b c", "3.2:d"]),
    ("full at the count", "0:a 0.1:b 0.2:c 0.3:d 0.4:e 0.5:f", ["0:a", "0.4:b c d e", "1.5:f"]),
    ("important leaves at once and alone", "0:a 0.1:!b 0.2:c", ["0:a", "0.1:!b", "1.2:c"]),
    (
        "important sends what is pending first",
        "0:a 0.1:b 0.2:c 0.3:!d 0.4:!e",
        ["0:a", "0.3:b c", "0.3:!d", "0.4:!e"],
    ),
    ("important is no quiet either", "0:!a 0.9:b", ["0:!a", "1.9:b"]),
    ("full at the bytes", "0:a 0.1:12345678 0.2:12345678", ["0:a", "0.2:12345678 12345678"]),
    (
        "what would be too large waits for the next",
        "0:a 0.1:12345678 0.2:123456789",
        ["0:a", "0.2:12345678", "1.2:123456789"],
    ),
    (
        "one that is too large by itself leaves alone",
        "0:a 0.1:b 0.2:123456789012345678901234567890 0.3:c",
        ["0:a", "0.2:b", "0.2:123456789012345678901234567890", "1.3:c"],
    ),
]


@pytest.mark.parametrize(("steps", "left"), [pytest.param(*row[1:], id=row[0]) for row in TRANSCRIPTS])
def test_batches_leave_as_the_rules_say(steps: str, left: list[str]) -> None:
    batch = RoomBatch[Said](max_count=4, max_bytes=24, max_wait_s=1.0)
    assert list(play(steps, batch)) == left
    assert (len(batch), batch.due) == (0, inf)


MAX_COUNT, MAX_BYTES = 5, 60
SAYINGS = st.lists(st.tuples(st.floats(0, 1.5), st.booleans(), st.integers(0, 80)), max_size=60)


@given(SAYINGS)
def test_order_is_kept_nothing_is_lost_and_bounds_hold(sayings: list[tuple[float, bool, int]]) -> None:
    batch = RoomBatch[Said](MAX_COUNT, MAX_BYTES, 1.0)
    now, added, left, came = 0.0, [], [], {}
    for number, (pause, is_important, size) in enumerate(sayings):
        now += pause
        record = said(f"{'!' if is_important else ''}{number}:{'x' * size}")
        added.append(record)
        came[id(record)] = now
        if batch.due <= now:
            left.append((batch.due, batch.flush()))
        left += [(now, records) for records in batch.add(record, now)]
        assert (batch.due == inf) == (len(batch) == 0)
    left.append((batch.due, batch.flush()))
    assert [record for _, records in left for record in records] == added
    for at, records in left:
        size = sum(HEAD_BYTES + len(record.message.data) for record in records)
        assert len(records) <= MAX_COUNT
        assert size <= MAX_BYTES or len(records) == 1
        if any(record.message.level is Level.IMPORTANT for record in records):
            assert len(records) == 1
            assert at == came[id(records[0])]
        assert all(0 <= at - came[id(record)] <= 1.000001 for record in records)


def test_push_says_who_said_each_record() -> None:
    messages = [
        Message("r", Level.NORMAL, b"a", 7, 1, "ann", 10),
        Message("r", Level.NORMAL, b"bb", 0, 0, "", 0),
    ]
    push = push_of([Said(message) for message in messages])
    assert (push.room, push.level, push.body) == ("r", Level.NORMAL, pack([b"a", b"bb"]))
    assert push.items == tuple(message.item for message in messages)
    assert push_of([said("!x")]).level is Level.IMPORTANT
    assert list(unpack(push_of([said("!x")]).body)) == [b"!x"]
