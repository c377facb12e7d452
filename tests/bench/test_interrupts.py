from __future__ import annotations

import os
import signal

import pytest
import trio

from bench.interrupts import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_cancels_what_runs_and_leaves_it_the_last_word(number: signal.Signals) -> None:
    cleaned = False

    async def run(scope: trio.CancelScope) -> str:
        nonlocal cleaned
        with scope:
            try:
                os.kill(os.getpid(), number)
                await trio.sleep(60)
            finally:
                cleaned = True
        return "cut short" if scope.cancelled_caught else "whole"

    with trio.fail_after(5):
        assert await interruptible(run) == "cut short"
    assert cleaned


async def test_failure_comes_through_as_it_is() -> None:
    async def run(_: trio.CancelScope) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await interruptible(run)
