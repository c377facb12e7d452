from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
import trio
import trio.testing
from structlog.testing import capture_logs

from conn_server.workers.lifeline import drain_without_supervisor
from runtime.lifecycle import Drain

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def pipe() -> Iterator[tuple[int, list[int]]]:
    """The end that a worker reads from, and the other one, to be popped by whoever closes it."""
    reading, writing = os.pipe()
    others = [writing]
    yield reading, others
    for end in (reading, *others):
        os.close(end)


async def test_drain_begins_when_the_supervisor_is_gone(pipe: tuple[int, list[int]]) -> None:
    reading, others = pipe
    drain = Drain(5)
    with capture_logs() as lines, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain_without_supervisor, drain, structlog.get_logger(), reading)
            await trio.testing.wait_all_tasks_blocked()
            os.write(others[0], b"nobody says anything, and it would change nothing")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not drain.draining.is_set()
            os.close(others.pop())
    assert drain.draining.is_set()
    assert [line["event"] for line in lines] == ["the supervisor is gone, draining"]


async def test_supervisor_that_ends_after_the_drain_has_begun_changes_nothing(
    pipe: tuple[int, list[int]],
) -> None:
    reading, others = pipe
    drain = Drain(5)
    drain.start()
    deadline = drain.deadline
    os.close(others.pop())
    with capture_logs() as lines, trio.fail_after(5):
        await drain_without_supervisor(drain, structlog.get_logger(), reading)
    assert drain.deadline == deadline
    assert lines == []
