"""The worker's side: its standard input is a pipe that only the supervisor holds the other end of.

Nothing is ever written into it.  When the supervisor is gone, whatever it died of, the pipe ends.
"""

from __future__ import annotations

import os
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

from runtime.lifecycle import Drain

STANDARD_INPUT: Final = 0
_SOME_BYTES: Final = 512


async def drain_without_supervisor(
    drain: Drain, log: FilteringBoundLogger, pipe: int = STANDARD_INPUT
) -> None:
    """Wait for the end of the pipe, for as long as the worker lives, and begin the drain then.

    Args:
        drain: of the worker.
        log: of the worker.
        pipe: the end to read from; it stays open.
    """
    while True:
        await trio.lowlevel.wait_readable(pipe)
        if not os.read(pipe, _SOME_BYTES):
            break
    if not drain.draining.is_set():
        log.warning("the supervisor is gone, draining", timeout_s=drain.timeout_s)
        drain.start()
