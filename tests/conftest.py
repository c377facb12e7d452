"""What holds for the whole suite: no asyncio loop in this process, and nothing left behind.

Peers that need asyncio (aiohttp, ansq, C-core grpcio's aio) run in child processes.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  only to take its entrances away
import gc
import os
import threading  # noqa: TID251  only to count
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

pytest_plugins = ("tests.chromium",)  # one browser for all who ask for it

OPEN_FILES = Path("/proc/self/fd")

# One machine of the farm being slow is not a failing property; CI draws the same examples each time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


PATCH = pytest.MonkeyPatch()


def refuse_loop(*_: object, **__: object) -> NoReturn:
    """Stand in for every way to an asyncio loop."""
    raise AssertionError("Trio owns every socket: run a peer that needs asyncio in a child process")


def pytest_configure() -> None:
    """Make every attempt to start an asyncio loop fail; early, before a module can keep an entrance."""
    for entrance in ("new_event_loop", "run", "Runner"):
        PATCH.setattr(asyncio, entrance, refuse_loop)
    # Loop policies look it up in here.
    PATCH.setattr(asyncio.events, "new_event_loop", refuse_loop)


def pytest_collection_finish() -> None:
    """Take all that importing has made out of the collector's sight: `no_leaks` collects twice a test."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Give asyncio its entrances back: the interpreter goes on when pytest was called by a program."""
    PATCH.undo()


def resources() -> Counter[str]:
    """Count what a test could leave behind: open files by what they are, and threads by name."""
    gc.collect()
    held: Counter[str] = Counter()
    for entry in OPEN_FILES.iterdir():
        try:
            # `socket:[1234]` and `anon_inode:[eventpoll]` are counted by kind, paths by themselves.
            held[str(entry.readlink()).partition(":[")[0]] += 1
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
    for thread in threading.enumerate():
        # Trio keeps idle workers for its next to_thread call; they hold nothing of a test.
        if not thread.name.lower().startswith("trio"):
            held[f"thread {thread.name}"] += 1
    return held


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a file, socket or thread open.

    In modules with sockets: `pytestmark = pytest.mark.usefixtures("no_leaks")`.  Trio's own epoll and
    wake-up sockets live within the run of the test, so they are gone on both sides of the count.
    """
    before = resources()
    # What the tests so far have left to pytest and to caches grows, and lives on: looked through twice a
    # test it costs more than the tests.
    gc.freeze()
    yield
    left = resources() - before
    assert not left, f"left behind: {dict(left)}"
