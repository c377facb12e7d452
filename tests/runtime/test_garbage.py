"""Collections look at what is new; what is old is looked at rarely, and cycles of old objects go then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import trio

from runtime.garbage import FULL_INTERVAL_S, THRESHOLDS, Garbage


class Knot:
    """An object that can be part of a cycle."""

    def __init__(self) -> None:
        self.other: Knot | None = None


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the collector as the suite has set it up."""
    was_frozen = gc.get_freeze_count() > 0
    yield
    if was_frozen:
        gc.freeze()


def tie() -> weakref.ref[Knot]:
    """Make a cycle that nothing else refers to."""
    one, two = Knot(), Knot()
    one.other, two.other = two, one
    return weakref.ref(one)


def test_what_survives_a_middle_collection_is_not_looked_at_again() -> None:
    with Garbage() as garbage:
        before = garbage.statistics().frozen
        kept = [Knot() for _ in range(1000)]
        gc.collect(1)
        assert garbage.statistics().frozen >= before + len(kept)


def test_young_cycle_goes_at_the_next_collection() -> None:
    with Garbage():
        knot = tie()
        gc.collect(1)
        assert knot() is None


def test_cycle_of_old_objects_goes_at_the_full_collection_and_is_counted() -> None:
    with Garbage() as garbage:
        one, two = Knot(), Knot()
        gc.collect(1)  # both are old now
        one.other, two.other = two, one
        seen = weakref.ref(one)
        del one, two
        gc.collect(1)
        assert seen() is not None
        garbage.collect()
        assert seen() is None
        statistics = garbage.statistics()
        assert (statistics.full, statistics.found >= 2) == (1, True)


async def test_full_collections_come_by_themselves(autojump_clock: trio.testing.MockClock) -> None:
    with Garbage() as garbage, trio.move_on_after(2.5 * FULL_INTERVAL_S):
        await garbage.run()
    assert garbage.statistics().full == 2


def test_leaving_gives_the_collector_back_as_it_was() -> None:
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    with Garbage():
        assert gc.get_threshold() == THRESHOLDS
    assert (gc.get_threshold(), gc.callbacks, gc.get_freeze_count()) == (thresholds, callbacks, 0)
