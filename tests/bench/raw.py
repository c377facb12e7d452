"""A server that does to a connection exactly what a test says, and the other end of it on the poller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic_ns

import trio

from bench.poller import Poller, no_pace
from bench.schedule import NS

DEADLINE_S = 5.0

Script = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def open_script(script: Script) -> AsyncIterator[int]:
    """Run `script` with each connection, which is closed when it returns; yield the port."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await script(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def drive(poller: Poller, is_done: Callable[[], bool]) -> None:
    """Drive the poller until something is so."""
    await poller.drive(no_pace, monotonic_ns() + int(DEADLINE_S * NS), is_done)
    assert is_done(), "not in time"
