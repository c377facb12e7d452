"""Keep one connection to one nsqd: connect, serve, and again after a pause, until cancelled."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from runtime.queue.nsq.connection import Connection, OnMessage, Tally
from runtime.queue.nsq.errors import NsqError
from runtime.queue.nsq.handshake import open_stream
from runtime.queue.nsq.options import NsqOptions

_log: Final[FilteringBoundLogger] = structlog.get_logger("nsq")

Serve: TypeAlias = Callable[[Connection], Awaitable[None]]
OnFailure: TypeAlias = Callable[[str], None]


class Backoff:
    """How long to wait before the next attempt: doubled at each, capped, shortened by chance so that
    the clients of a restarted nsqd do not come all at once.  Pure.
    """

    __slots__ = ("_max_s", "_min_s", "_next_s")

    def __init__(self, min_s: float, max_s: float) -> None:
        self._min_s = self._next_s = min_s
        self._max_s = max_s

    def reset(self) -> None:
        """Start over: the last attempt was a success."""
        self._next_s = self._min_s

    def pause_s(self, chance: float) -> float:
        """Return the next pause in seconds; `chance` from 0 to 1 picks from its upper half."""
        pause_s = self._next_s * (0.5 + chance / 2)
        self._next_s = min(2 * self._next_s, self._max_s)
        return pause_s


async def run_link(
    address: str,
    options: NsqOptions,
    *,
    tally: Tally,
    serve: Serve,
    on_message: OnMessage,
    on_failure: OnFailure,
) -> None:
    """Connect to the nsqd at `address` and `serve`, again and again; return when `serve` returns.

    `on_failure` is told the address after each attempt that failed and each connection that ended.
    Cancellation closes the connection at once.
    """
    backoff = Backoff(options.reconnect_min_s, options.reconnect_max_s)
    told: str | None = None
    while True:
        began = trio.current_time()
        try:
            opened = await open_stream(address, options)
            tally.connected += 1
            told = None
            _log.info("nsqd connected", address=address, version=opened.negotiated.version)
            return await Connection(address, opened, options, tally, on_message).run(serve)
        except NsqError as exc:
            tally.failures[exc.reason] += 1
            on_failure(address)
            # Once for each kind of trouble: nsqd may be away for hours.
            if exc.reason != told:
                _log.warning("nsqd lost", address=address, reason=str(exc))
            told = exc.reason
        # One that lived for a moment is no success: nsqd may refuse what we say first.
        if trio.current_time() - began > options.reconnect_max_s:
            backoff.reset()
        await trio.sleep(backoff.pause_s(random.random()))  # noqa: S311  jitter needs no secrecy
