"""One epoll for all sockets of a generator, driven by one Trio task that also sends what is due.

The loop is the conn server's technique turned around: no task, channel or stream per connection, so that one
core of generator can keep one core of server busy.

Rules
1. A handler is registered exactly as long as its socket is open; `remove` comes before the close.
2. Handlers and paces are called synchronously and never wait.
3. What is due is sent in small portions between looks at the sockets, so that neither starves the other.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from math import inf
from time import monotonic_ns
from typing import Final, Protocol

import trio

from bench.schedule import NS

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
HALF_CLOSED: Final = select.EPOLLRDHUP
"""The other side will send nothing more; told without reading, unlike the end of what came."""
NEVER: Final = 1 << 62
"""A time in ns that does not come."""

_EVENTS: Final = 128  # handled between two looks at what is due
_CHECKPOINT_NS: Final = 2_000_000
_COARSE_NS: Final = 2_000_000

Pace = Callable[[int], int]
"""Sends what is due at a time (ns), a portion at most; returns when it wants to be called again."""


class Handler(Protocol):
    """What the poller calls."""

    def on_event(self, events: int) -> None:
        """Act on a socket that is ready."""

    def abort(self) -> None:
        """Close the socket now; idempotent."""


def no_pace(_: int) -> int:
    """Send nothing."""
    return NEVER


class Poller:
    """Drives all sockets of one generator process; closed, with all its sockets, by `close`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, fd: int, handler: Handler, events: int) -> None:
        """Call `handler` when `fd` is ready for `events`."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Change what `fd` is watched for."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget `fd`; a no-op when it is not registered."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Abort all that is left."""
        for handler in list(self._handlers.values()):
            handler.abort()
        self._epoll.close()

    async def drive(self, pace: Pace, until_ns: int, is_done: Callable[[], bool] | None = None) -> None:
        """Send what `pace` finds due and handle what comes, until a time (ns) or until it is done."""
        checked = 0
        while True:
            now = monotonic_ns()
            if now >= until_ns or (is_done is not None and is_done()):
                await trio.lowlevel.checkpoint()
                return
            wake = min(pace(now), until_ns)
            if self._dispatch() or wake <= now:
                if now - checked > _CHECKPOINT_NS:
                    await trio.lowlevel.checkpoint()
                    checked = now
                continue
            await self._wait(wake)
            checked = monotonic_ns()

    def _dispatch(self) -> int:
        handlers = self._handlers
        ready = self._epoll.poll(0, _EVENTS)
        for fd, events in ready:
            handler = handlers.get(fd)
            if handler is not None:  # closed earlier in this round
                handler.on_event(events)
        return len(ready)

    async def _wait(self, wake_ns: int) -> None:
        """Wait for a socket, or for a time.

        Trio's epoll counts in whole milliseconds, which would make every send late.  The last bit is waited
        out in select(), whose timeout is exact; it holds this process, which has nothing else to do, for 2 ms
        at most.
        """
        left = wake_ns - monotonic_ns()
        if left > _COARSE_NS:
            seconds = (left - _COARSE_NS / 2) / NS if wake_ns < NEVER else inf
            with trio.move_on_after(min(seconds, 0.05)):  # is_done is looked at now and then
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            return
        await trio.lowlevel.checkpoint()
        select.select((self._epoll.fileno(),), (), (), max(0, left) / NS)
