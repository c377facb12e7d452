from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from bench.compare import CASES
from bench.procstat import files_of
from bench.servers import RECIPES, Address, NotStarted, Recipe, by_hand, free_port, open_contender
from clients.python import open_client
from schema.message import Level
from schema.tokens import TokenAuthority

pytestmark = pytest.mark.usefixtures("no_leaks")
needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None and not os.environ.get("CI"), reason="no C compiler (cc) on PATH"
)
PEERS = [
    pytest.param("floor", marks=needs_compiler),
    "picows",
    "websockets",
    "trio-websocket",
]


@pytest.mark.parametrize("name", PEERS)
async def test_peer_speaks_the_protocol(name: str) -> None:
    with trio.fail_after(20):
        async with (
            open_contender(RECIPES[name], cpu=None) as running,
            open_client(running.url, token="any", room="lobby", version=0) as ann,
            open_client(running.url, token="any", room="lobby", version=0) as bob,
            open_client(running.url, token="any", room="attic", version=0) as cid,
        ):
            await ann.publish(b"x" * 300, Level.IMPORTANT)
            await cid.publish(b"elsewhere")
            heard = [await anext(client.messages()) for client in (ann, bob, cid)]
    assert [(message.room, message.level, len(message.data)) for message in heard] == [
        ("lobby", Level.IMPORTANT, 300),
        ("lobby", Level.IMPORTANT, 300),
        ("attic", Level.NORMAL, 9),
    ]


async def test_ours_takes_the_settings_and_the_secret_that_it_is_started_with() -> None:
    with trio.fail_after(90):
        async with open_contender(RECIPES["ours"], cpu=None) as running:
            token = TokenAuthority(running.secret.encode()).issue("7", time.time())
            async with open_client(running.url, token=token, room="lobby") as ann:
                await ann.publish(b"hi", Level.IMPORTANT)
                assert (await anext(ann.messages())).sender == "7"


async def test_both_workers_of_a_conn_server_are_watched_and_check_tokens_themselves() -> None:
    with trio.fail_after(90):
        async with open_contender(RECIPES["conn-2"], cpu=None) as running:
            supervisor, *workers = running.pids
            token = TokenAuthority(running.secret.encode()).issue("7", time.time())
            before = {pid: files_of(pid) for pid in running.pids}
            async with AsyncExitStack() as clients:
                for _ in range(40):
                    await clients.enter_async_context(open_client(running.url, token=token, room="lobby"))
                added = {pid: files_of(pid) - before[pid] for pid in running.pids}
    assert len(workers) == 2
    assert added[supervisor] == 0
    assert sum(added.values()) == 40
    assert all(added[pid] > 0 for pid in workers)


async def test_server_stays_on_the_core_that_it_is_given() -> None:
    core = min(os.sched_getaffinity(0))
    async with open_contender(RECIPES["picows"], cpu=core) as running:
        assert os.sched_getaffinity(running.pids[0]) == {core}


async def test_what_a_server_says_before_it_ends_is_passed_on() -> None:
    recipe = Recipe("broken", "", lambda *_: (sys.executable, "-c", "raise SystemExit('out of order')"))
    with pytest.raises(NotStarted, match="out of order"):
        async with open_contender(recipe, cpu=None):
            pass
    with pytest.raises(NotStarted, match="/nowhere"):
        async with open_contender(Recipe("x", "", lambda *_: ("/nowhere",)), cpu=None):
            pass


async def test_server_that_cannot_be_kept_on_its_core_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "pid"
    recipe = Recipe("x", "", lambda *_: ("/bin/sh", "-c", f"echo $$ > {started}; exec sleep 60"))

    def wait_and_set(pid: int, cores: set[int]) -> None:
        while not (started.exists() and started.read_text()):
            os.sched_yield()
        raise OSError("no such core")

    monkeypatch.setattr("os.sched_setaffinity", wait_and_set)
    with trio.fail_after(10), pytest.raises(NotStarted, match="no such core"):
        async with open_contender(recipe, cpu=4095):
            pass
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


async def test_floor_without_a_compiler_is_a_failure_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotStarted, match="cc: "):
        async with open_contender(RECIPES["floor"], cpu=None):
            pass


async def test_address_by_hand_is_taken_as_it_is() -> None:
    contender = by_hand("go=ws://127.0.0.1:8081/room#12,34", "key")
    assert isinstance(contender, Address)
    async with open_contender(contender, cpu=0) as running:
        assert (running.url, running.pids, running.secret) == ("ws://127.0.0.1:8081/room", (12, 34), "key")
        assert "key" not in repr(running)


def test_command_by_hand_gets_its_port_and_keeps_other_braces(tmp_path: Path) -> None:
    contender = by_hand("mine=./server --port={port} 'a b' \"print({})\"", "")
    assert isinstance(contender, Recipe)
    assert contender.command(77, tmp_path, "") == ["./server", "--port=77", "a b", "print({})"]


@pytest.mark.parametrize("text", ["nameless", "=ws://x", "x=./server", "x=./s {port} 'a", "x=ws://h/#me"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text.split("=", maxsplit=1)[0] or "expected"):
        by_hand(text, "")


def test_free_ports_are_free_and_cases_fit_the_settings_that_we_start_with() -> None:
    assert 1024 < free_port() < 65536
    assert max(case.load.connections for case in CASES.values()) <= 32 * 1024
