from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic_ns

import pytest
import trio

from bench.procstat import Gone
from bench.watched import Watched

pytestmark = pytest.mark.usefixtures("no_leaks")


@asynccontextmanager
async def open_process() -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def test_what_was_seen_of_a_server_that_ends_is_kept() -> None:
    async with open_process() as process:
        watched = Watched([process.pid])
        first = watched.look()
        assert watched.gone == ""
    after = watched.look()
    assert str(process.pid) in watched.gone
    assert (after.cpu_ns, after.rss_bytes) == (first.cpu_ns, first.rss_bytes)
    assert after.at_ns > first.at_ns  # whoever waits for the next look must not wait for ever
    assert watched.since(after.at_ns) == first
    assert watched.files() == [0]


async def test_look_at_a_time_is_the_first_one_after_it() -> None:
    watched = Watched([])
    early = watched.look()
    middle = monotonic_ns()
    late = watched.look()
    assert watched.since(early.at_ns) == early
    assert watched.since(middle) == late
    assert watched.since(monotonic_ns()) == late


def test_server_that_is_not_there_at_the_beginning_is_named() -> None:
    with pytest.raises(Gone, match="4194999"):
        Watched([4194999]).look()
