"""One task and one epoll drive all client sockets.

A Trio task per socket read would cost a task switch, an epoll call and a clock call each: twice the
CPU of a heartbeat.  Here one task waits (through Trio) until our own epoll has something to say, takes
up to `ROUND_EVENTS` of it and calls each socket's handler synchronously; between two such rounds every
other task of the process gets its turn.

Waiting costs more than reading: each wake-up of Trio's loop takes 55 to 80 us, seven heartbeats' worth and
more.  As long as something comes in at every look, the task therefore looks every half to three milliseconds
instead of waiting (as network cards moderate their interrupts), so that some events share a wake-up: what
comes first after a quiet time is dealt with at once, what follows is up to three milliseconds late.

Handlers are kept in a list by file descriptor: 8 bytes each, and no hashing.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from conn_server.deadlines import Deadlines

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
ENDED: Final = select.EPOLLRDHUP
"""The peer has ended its side; what it said before may still be there to be read."""
ROUND_EVENTS: Final = 256
"""Events between two checkpoints: about 2 ms of heartbeats."""
PACE_S: Final = 0.0005
LONGEST_PACE_S: Final = 0.003
"""Between two looks while there is traffic: the shortest, and the longest."""
_FEW_EVENTS: Final = 32
_MANY_EVENTS: Final = 128
SWEEP_CHUNK: Final = 256


class Handler(Protocol):
    """What the poller drives: one socket.  Nothing here may wait."""

    def ready(self, events: int) -> None:
        """The socket is readable, writable or broken."""

    def swept(self, now: float) -> float:
        """Look at the deadlines; return when to look again.  Called at that time, or earlier."""

    def abort(self) -> None:
        """Close the socket now; calling it again changes nothing."""


@dataclass(frozen=True, slots=True)
class PollerStatistics:
    """Sockets now; rounds, events, looks at deadlines and handlers that failed since the start."""

    sockets: int
    rounds: int
    events: int
    looks: int
    failures: int


def next_pace_s(pace_s: float, events: int) -> float:
    """Return how long to wait after a look that has found `events`: longer after few, shorter after many."""
    if events < _FEW_EVENTS:
        return min(2 * pace_s, LONGEST_PACE_S)
    if events > _MANY_EVENTS:
        return max(pace_s / 2, PACE_S)
    return pace_s


class Poller:
    """Drives the handlers of all client sockets, while `run` runs: its epoll begins and ends with that.

    Args:
        log: for handlers that fail: a defect of ours, which ends that socket alone.

    Attributes:
        now: `trio.current_time()`, read once per round instead of once per frame; and at each sweep, so
            that deadlines which begin while no client says anything do not begin in the past.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._epoll: select.epoll
        self._handlers: list[Handler | None] = [None] * 64
        self._sockets = self._rounds = self._events = self._looks = self._failures = 0
        self.now = trio.current_time()
        self._deadlines = Deadlines(self.now)

    def add(self, fd: int, handler: Handler, events: int = READABLE, *, deadline: float = inf) -> None:
        """Call `handler` from now on, and look at its deadlines when `deadline` has come.

        Raises:
            OSError: the descriptor is none, or is driven already.
        """
        self._epoll.register(fd, events)
        while fd >= len(self._handlers):
            self._handlers.extend([None] * len(self._handlers))
        self._handlers[fd] = handler
        self._sockets += 1
        self._deadlines.set(fd, deadline, self.now)

    def replace(self, fd: int, handler: Handler) -> None:
        """Give a driven socket to another handler; it is looked at when the old one would have been."""
        self._handlers[fd] = handler

    def look_at(self, fd: int, deadline: float) -> None:
        """Look at the deadlines of a driven socket when `deadline` has come, if not earlier."""
        self._deadlines.set(fd, deadline, self.now)

    def modify(self, fd: int, events: int) -> None:
        """Wait for `events` from now on; that a socket is broken is always told."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop driving a socket; the caller closes it, or goes on with it."""
        self._epoll.unregister(fd)
        self._handlers[fd] = None
        self._deadlines.forget(fd)
        self._sockets -= 1

    def handlers(self) -> Iterator[Handler]:
        """Iterate over what is driven now; the list may change meanwhile."""
        return (handler for handler in self._handlers if handler is not None)

    def statistics(self) -> PollerStatistics:
        """Return what there is now and was so far."""
        return PollerStatistics(self._sockets, self._rounds, self._events, self._looks, self._failures)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the sockets until cancelled; then all that are left are closed."""
        self._epoll = select.epoll()
        epoll_fd, is_busy, pace_s, last_round = self._epoll.fileno(), False, PACE_S, -inf
        try:
            task_status.started()
            while True:
                if is_busy:
                    await trio.sleep_until(last_round + pace_s)
                else:
                    await trio.lowlevel.wait_readable(epoll_fd)
                    pace_s = PACE_S
                now = trio.current_time()
                while (events := self._round(now)) == ROUND_EVENTS:
                    await trio.lowlevel.checkpoint()
                    now = trio.current_time()
                is_busy = events > 0 and (is_busy or now - last_round < 2 * PACE_S)
                pace_s = next_pace_s(pace_s, events)
                last_round = now
        finally:
            for handler in list(self.handlers()):
                handler.abort()
            trio.lowlevel.notify_closing(epoll_fd)
            self._epoll.close()

    def _round(self, now: float) -> int:
        """Call the handlers of up to `ROUND_EVENTS` sockets; return how many events there were."""
        self.now, handlers = now, self._handlers
        events = self._epoll.poll(0, ROUND_EVENTS)
        self._rounds += 1
        self._events += len(events)
        for fd, what in events:
            handler = handlers[fd]
            if handler is None:  # closed by another handler in this round
                continue
            try:
                handler.ready(what)
            except Exception as exc:
                self._failed(handler, exc)
        return len(events)

    async def sweep(self, interval_s: float) -> None:
        """Look every `interval_s` at the deadlines that may be over, until cancelled."""
        while True:
            await trio.sleep(interval_s)
            now = self.now = trio.current_time()
            due = self._deadlines.due(now)
            for start in range(0, len(due), SWEEP_CHUNK):
                for fd in due[start : start + SWEEP_CHUNK]:
                    self._look(fd, now)
                await trio.lowlevel.checkpoint()

    def _look(self, fd: int, now: float) -> None:
        handler = self._handlers[fd]
        if handler is None:  # closed since it was found to be due
            return
        self._looks += 1
        try:
            again_at = handler.swept(now)
        except Exception as exc:
            self._failed(handler, exc)
            return
        if self._handlers[fd] is handler:
            self._deadlines.set(fd, again_at, now)

    def _failed(self, handler: Handler, error: Exception) -> None:
        self._failures += 1
        self._log.error("socket handler failed", exc_info=error)
        handler.abort()
