from __future__ import annotations

import pytest

from bench.pacing import PORTION, OpenLoop, everybody_once
from bench.poller import NEVER
from tests.bench.running import open_engine

pytestmark = pytest.mark.usefixtures("no_leaks")
NOBODY = "ws://127.0.0.1:9/room"
MS = 1_000_000
START = 1000 * MS


class Counting:
    """Notes what was due; may be away."""

    def __init__(self, *, is_there: bool = True) -> None:
        self.is_there = is_there
        self.due: list[int] = []

    def can_act(self) -> bool:
        return self.is_there

    def act(self, due_ns: int) -> None:
        self.due.append(due_ns)


async def test_actors_take_turns_at_the_times_of_the_schedule() -> None:
    async with open_engine(NOBODY, ramp_s=0.0) as engine:
        actors = [Counting() for _ in range(3)]
        loop = OpenLoop(engine, actors, 1000.0, START)
        assert loop.pace(START - 1) == START
        assert loop.pace(START + 5 * MS) == START + 6 * MS
        assert [len(actor.due) for actor in actors] == [2, 2, 2]
        assert sorted(due for actor in actors for due in actor.due) == [START + n * MS for n in range(6)]
        assert engine.span("lateness").highest == 5 * MS


async def test_stall_of_the_generator_is_caught_up_in_portions_and_counted_as_lateness() -> None:
    async with open_engine(NOBODY, ramp_s=0.0) as engine:
        actor = Counting()
        loop = OpenLoop(engine, [actor], 1000.0, START)
        stalled_until = START + 100 * MS
        assert loop.pace(stalled_until) <= stalled_until
        assert len(actor.due) == PORTION
        while loop.pace(stalled_until) <= stalled_until:
            pass
        assert len(actor.due) == 101
        assert engine.span("lateness").highest == 100 * MS


async def test_who_is_away_misses_a_turn_and_nobody_else_does() -> None:
    async with open_engine(NOBODY, ramp_s=0.0) as engine:
        here, away = Counting(), Counting(is_there=False)
        OpenLoop(engine, [here, away], 1000.0, START).pace(START + 9 * MS)
        assert (len(here.due), len(away.due)) == (5, 0)
        assert engine.counts["skipped"] == 5
        assert len(engine.span("lateness")) == 5


async def test_turns_that_are_missed_in_the_ramp_do_not_count() -> None:
    async with open_engine(NOBODY, ramp_s=0.1) as engine:
        OpenLoop(engine, [Counting(is_there=False)], 100.0, START).pace(START + 120 * MS)
        assert 0 < engine.counts["skipped"] <= 3


async def test_nobody_has_nothing_due() -> None:
    async with open_engine(NOBODY) as engine:
        assert OpenLoop(engine, [], 1000.0, START).pace(START) == NEVER


def test_everybody_acts_once_in_portions() -> None:
    actors = [Counting(is_there=number != 5) for number in range(PORTION + 3)]
    pace = everybody_once(actors)
    assert pace(7) == 7
    assert pace(8) == NEVER
    assert pace(9) == NEVER
    assert [len(actor.due) for actor in actors] == [int(actor.is_there) for actor in actors]
