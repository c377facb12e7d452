from __future__ import annotations

from conn_server.origin import Origin
from schema.message import Level, Message


def test_messages_are_numbered_from_one_and_say_who_and_when() -> None:
    origin = Origin(9, lambda: 1_700_000_000.1239)
    assert origin.stamp("a", Level.IMPORTANT, b"x", "ann") == Message(
        "a", Level.IMPORTANT, b"x", 9, 1, "ann", 1_700_000_000_123
    )
    assert origin.stamp("b", Level.NORMAL, b"y", "bob").origin_seq == 2


def test_clock_that_goes_back_changes_no_number() -> None:
    times = iter([5.0, 1.0])
    origin = Origin(9, lambda: next(times))
    stamped = [origin.stamp("a", Level.NORMAL, b"x", "ann") for _ in range(2)]
    assert [(m.origin_seq, m.sent_at_ms) for m in stamped] == [(1, 5000), (2, 1000)]
