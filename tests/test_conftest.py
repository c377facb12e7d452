"""The nets under the suite hold."""

from __future__ import annotations

import asyncio  # noqa: TID251  to see it refused
import socket
from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from tests.conftest import resources


@pytest.mark.parametrize("entrance", [asyncio.new_event_loop, asyncio.events.new_event_loop, asyncio.Runner])
def test_asyncio_loop_cannot_be_started(entrance: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match="Trio owns every socket"):
        entrance()


def test_asyncio_run_is_refused() -> None:
    with pytest.raises(AssertionError, match="Trio owns every socket"):
        asyncio.run(None)  # type: ignore[arg-type]


def test_socket_left_open_is_counted() -> None:
    before = resources()
    left_open = socket.socket()
    try:
        assert resources() - before == {"socket": 1}
    finally:
        left_open.close()
    assert not resources() - before


@pytest.mark.usefixtures("no_leaks")
async def test_trio_run_with_sockets_and_threads_leaves_nothing() -> None:
    near, far = trio.socket.socketpair()
    with near, far:
        await near.send(b"x")
        assert await trio.to_thread.run_sync(lambda: 1) == 1
        assert await far.recv(1) == b"x"


async def test_virtual_clock_jumps(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    await trio.sleep(3600)
    assert trio.current_time() - start == 3600
    assert autojump_clock.autojump_threshold == 0


@given(st.binary())
async def test_properties_may_be_async(data: bytes) -> None:
    send, receive = trio.open_memory_channel[bytes](1)
    with send, receive:
        await send.send(data)
        assert await receive.receive() == data
