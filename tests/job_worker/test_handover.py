from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from job_worker.handover import Handover, Outcome

A, D, G = Outcome.ANSWERED, Outcome.DROPPED, Outcome.GONE
KEEP = "keep"


def play(lanes: int, *steps: Outcome | str | tuple[Outcome]) -> list[bool]:
    """Return what `done` was told; a step is an outcome, `KEEP`, or the outcome (a tuple) of a kept one."""
    told: list[bool] = []
    handover = Handover(lanes, told.append)
    for step in steps:
        if isinstance(step, tuple):
            handover.settle(step[0], is_kept=True)
        elif isinstance(step, Outcome):
            handover.settle(step, is_kept=False)
        else:
            handover.keep()
    return told


@pytest.mark.parametrize(
    ("lanes", "steps", "told"),
    [
        pytest.param(0, [], [False], id="no lane: nobody"),
        pytest.param(2, [A], [], id="the second one is waited for"),
        pytest.param(2, [A, A], [True], id="all have answered"),
        pytest.param(2, [G, A], [True], id="one has gone"),
        pytest.param(2, [G, G], [False], id="all have gone: nobody"),
        pytest.param(2, [D, G], [True], id="dropped on purpose"),
        pytest.param(2, [A, KEEP], [True], id="a detached one is not waited for"),
        pytest.param(2, [KEEP, A], [True], id="in whatever order"),
        pytest.param(2, [A, KEEP, (G,)], [True], id="what it does later changes nothing"),
        pytest.param(1, [KEEP], [], id="nobody else is there: wait"),
        pytest.param(2, [KEEP, G], [], id="nobody else is left: wait"),
        pytest.param(2, [KEEP, KEEP, (A,)], [True], id="the first of the detached answers"),
        pytest.param(1, [KEEP, (G,)], [False], id="given up for good: nobody"),
    ],
)
def test_it_is_decided_as_the_rules_say(
    lanes: int, steps: list[Outcome | str | tuple[Outcome]], told: list[bool]
) -> None:
    assert play(lanes, *steps) == told


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(Outcome)), min_size=1, max_size=5))
def test_it_is_decided_exactly_once_however_lanes_end(
    ends: list[tuple[bool, Outcome]],
) -> None:
    told: list[bool] = []
    handover = Handover(len(ends), told.append)
    for is_kept, _ in ends:
        if is_kept:
            handover.keep()
    for is_kept, outcome in ends:
        handover.settle(outcome, is_kept=is_kept)
    assert len(told) == 1
    answered = any(outcome is A for _, outcome in ends)
    assert told[0] or not answered
