from __future__ import annotations

import pytest

from bench.deliveries import PUSH_MARK, Deliveries
from bench.engine import Engine
from bench.plan import Window
from bench.sequence import Stamp
from schema.batch import pack
from schema.envelope import encode_push
from schema.message import Item, Level, Push
from tests.bench.running import RUN, open_engine

pytestmark = pytest.mark.usefixtures("no_leaks")
NOBODY = "ws://127.0.0.1:9/room"


def push(*numbers: int, run: int = RUN, level: Level = Level.NORMAL, version: int = 0) -> bytes:
    records = [Stamp(run, 1, number, number * 100).encode(50) for number in numbers]
    items = tuple(Item("ann", 1, b"") for _ in records)
    return encode_push(Push("room", level, pack(records), items), version)


def deliveries_of(engine: Engine) -> Deliveries:
    deliveries = Deliveries(engine)
    deliveries.window = Window(0, 1000, 2000)
    return deliveries


async def test_merged_pushes_count_once_as_frames_and_each_as_messages() -> None:
    async with open_engine(NOBODY) as engine:
        deliveries = deliveries_of(engine)
        assert push(1)[:2] == PUSH_MARK
        for tracker in (deliveries.tracker(), deliveries.tracker()):
            deliveries.take(tracker, push(1, 2, 3), 1500)
            deliveries.take(tracker, push(4), 2500)  # after the measured time
        assert (deliveries.frames, deliveries.unique) == (2, 8)
        assert deliveries.counts()["late"] == deliveries.counts()["disordered"] == 0


async def test_latency_counts_from_when_a_message_was_due_by_level() -> None:
    async with open_engine(NOBODY) as engine:
        deliveries = deliveries_of(engine)
        tracker = deliveries.tracker()
        deliveries.take(tracker, push(10, version=1), 1700)
        deliveries.take(tracker, push(11, level=Level.IMPORTANT), 1800)
        deliveries.take(tracker, push(30), 3500)  # was due after the measured time
        assert engine.span("latency_normal").highest == 700
        assert engine.span("latency_important").highest == 700
        assert len(engine.span("latency_normal")) == 1


async def test_messages_of_another_run_are_nobodys() -> None:
    async with open_engine(NOBODY) as engine:
        deliveries = deliveries_of(engine)
        heard = deliveries.take(deliveries.tracker(), push(1, run=RUN + 1), 1500)
        assert heard.records == ()
        assert (deliveries.frames, deliveries.unique) == (1, 0)


async def test_members_that_see_two_orders_are_noticed() -> None:
    async with open_engine(NOBODY) as engine:
        deliveries = deliveries_of(engine)
        one, other = deliveries.tracker(), deliveries.tracker()
        for payload in (push(1), push(2)):
            deliveries.take(one, payload, 1500)
        for payload in (push(2), push(1)):
            deliveries.take(other, payload, 1500)
        assert deliveries.counts()["disordered"] == deliveries.counts()["late"] == 1


async def test_push_that_cannot_be_understood_is_a_problem() -> None:
    async with open_engine(NOBODY) as engine:
        deliveries = deliveries_of(engine)
        deliveries.take(deliveries.tracker(), PUSH_MARK + b"\x12\x01\xff", 1500)
        (problem,) = engine.problems
        assert problem.startswith("push not understood")


async def test_what_is_remembered_of_pushes_is_bounded() -> None:
    async with open_engine(NOBODY) as engine:
        deliveries = deliveries_of(engine)
        tracker = deliveries.tracker()
        for number in range(1, 6000):
            deliveries.take(tracker, push(number), 1500)
        remembered = len(deliveries._recent) + len(deliveries._older)
        assert 2048 <= remembered <= 4096
        assert deliveries.unique == 5999
