"""^C and SIGTERM: what runs is cancelled, so that it ends the processes that it has started."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from bench.generator import first_of

T = TypeVar("T")


async def interruptible(run: Callable[[trio.CancelScope], Awaitable[T]]) -> T:
    """Run something that enters the cancel scope that it gets; return what it returns.

    SIGINT and SIGTERM cancel the scope: what comes behind it can still make something of what is there.
    """
    scope = trio.CancelScope()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_cancel_on_signal, scope)
            result = await run(scope)
            nursery.cancel_scope.cancel()
            return result
    except BaseExceptionGroup as group:
        raise first_of(group) from None


async def _cancel_on_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
