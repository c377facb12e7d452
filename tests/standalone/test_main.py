"""`python -m standalone` as a process: its command line, its signals, its exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from clients.python import Closed, open_client
from runtime.units import format_address
from schema.closing import CloseCode, draining_reason
from standalone.__main__ import main
from tests.http import http_client
from tests.standalone.running import KEY, token_of

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


# -- the command line


def show(*arguments: str, **environment: str) -> str:
    outcome = CliRunner().invoke(main, [*arguments, "--check"], env=environment)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def source_of(setting: str, output: str) -> tuple[str, str]:
    """Return value and source of one line of `--check`, in its section."""
    section, _, key = setting.rpartition(".")
    (lines,) = re.findall(rf"^\[{re.escape(section)}\]\n((?:[^\[\n].*\n)*)", output, re.MULTILINE)
    (value, source) = re.findall(rf"^(?:# )?{key} = (.*?) +# (.*)$", lines, re.MULTILINE)[0]
    return value, source


@pytest.mark.parametrize("flag", ["-conf {}", "-conf={}", "--conf {}", "--conf={}"])
def test_settings_are_shown_with_their_sources_and_secrets_are_masked(flag: str, tmp_path: Path) -> None:
    conf = tmp_path / "mine.toml"
    conf.write_text('[conn.websocket]\nbind = "127.0.0.1:9000"\n')
    output = show(
        *flag.format(conf).split(),
        ROOMCAST_TOKEN_SECRET=KEY,
        ROOMCAST_JOB__ROOM__BATCH="7",
    )
    value, source = source_of("conn.websocket.bind", output)
    assert value == '"127.0.0.1:9000"'
    assert "mine.toml" in source
    value, source = source_of("job.room.batch", output)
    assert (value, "ROOMCAST_JOB__ROOM__BATCH" in source) == ("7", True)
    assert source_of("job.room.signal", output) == ('"1s"', "default")
    assert KEY not in output
    assert source_of("conn.token.secret", output) == ("***", "environment ROOMCAST_TOKEN_SECRET")


def test_without_a_file_the_defaults_serve_this_machine_alone() -> None:
    output = show()
    assert source_of("conn.websocket.bind", output) == ('"127.0.0.1:8081"', "default")
    assert source_of("conn.token.issue", output) == ("true", "default")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[conn.websocket]\nbindd = 1\n", ("bad.toml", "conn.websocket.bindd", "bind")),
        ('[job.room]\nsignal = "soon"\n', ("bad.toml", "job.room.signal", "soon")),
        ("[conn", ("bad.toml",)),
    ],
)
def test_mistake_in_the_settings_is_said_with_file_and_key(
    text: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    outcome = CliRunner().invoke(main, ["-conf", str(tmp_path / "bad.toml")])
    assert outcome.exit_code == 2
    assert [word for word in words if word not in outcome.output] == []
    assert "Traceback" not in outcome.output


# -- the process


@dataclass
class Process:
    """A started `python -m standalone`.

    Attributes:
        printed: what it says to a person, on stdout.
        lines: of its log, on stderr.
    """

    process: trio.Process
    printed: str = ""
    lines: list[dict[str, str]] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def page(self) -> str:
        """The page to open."""
        return self._printed(r"^ +(http://\S+/)$")

    @property
    def websocket(self) -> str:
        return self._printed(r"^ +WebSocket (\S+)$")

    @property
    def numbers(self) -> str:
        return self._printed(r"^ +Numbers +(\S+)$")

    def _printed(self, pattern: str) -> str:
        (found,) = re.findall(pattern, self.printed, re.MULTILINE)
        return str(found)

    async def read_printed(self, stream: trio.abc.ReceiveStream) -> None:
        async for chunk in stream:
            self.printed += chunk.decode()
            self.tell()

    async def read_log(self, stream: trio.abc.ReceiveStream) -> None:
        rest = b""
        async for chunk in stream:
            *whole, rest = (rest + chunk).split(b"\n")
            self.lines += map(json.loads, whole)
            self.tell()

    def tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until_said(self, event: str) -> None:
        with trio.fail_after(DEADLINE_S):
            while all(line["event"] != event for line in self.lines):
                await self.changed.wait()

    async def exit_code(self) -> int:
        with trio.fail_after(DEADLINE_S):
            return await self.process.wait()


@asynccontextmanager
async def started(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    """Start it on free ports and wait until it has told where."""
    environment = {
        "ROOMCAST_CONN__WEBSOCKET__BIND": "127.0.0.1:0",
        "ROOMCAST_CONN__ADMIN__BIND": "127.0.0.1:0",
        "ROOMCAST_TOKEN_SECRET": KEY,
        **environment,
    }
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", "-m", "standalone", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    system = Process(process)
    try:
        async with process.stdout, process.stderr, trio.open_nursery() as nursery:
            nursery.start_soon(system.read_printed, process.stdout)
            nursery.start_soon(system.read_log, process.stderr)
            with trio.fail_after(DEADLINE_S):
                while "Ctrl-C ends it." not in system.printed:
                    await system.changed.wait()
            yield system
            await system.exit_code()
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed commands need curl")
async def test_what_it_prints_can_be_followed() -> None:
    async with started() as system:
        async with http_client() as browser:
            assert "<title>Roomcast</title>" in (await browser.get(system.page)).text
            assert "roomcast_rooms_rooms 0" in (await browser.get(system.numbers)).text
        async with open_client(system.websocket, token=token_of("ann"), room="lobby") as ann:
            # The two commands as they are printed, in the shell that a person has.
            commands = "\n".join(re.findall(r"^ +((?:TOKEN=|curl ).*)$", system.printed, re.MULTILINE))
            answer = await trio.run_process(["sh", "-ec", commands], capture_stdout=True, capture_stderr=True)
            assert answer.stdout == b'{"code":1,"msg":"suc"}'
            with trio.fail_after(DEADLINE_S):
                assert (await ann.receive()).data == b'"hello"'
        system.process.send_signal(signal.SIGINT)
        assert await system.exit_code() == 0


async def test_sigterm_sends_clients_away_with_a_hint_and_ends_with_0() -> None:
    async with started() as system:
        async with open_client(system.websocket, token=token_of("ann"), room="lobby") as ann:
            await ann.publish(b"the last words")
            system.process.send_signal(signal.SIGTERM)
            with trio.fail_after(DEADLINE_S):
                assert await ann.wait_closed() == Closed(CloseCode.GOING_AWAY, draining_reason(2000))
                assert (await ann.receive()).data == b"the last words"
        assert await system.exit_code() == 0
    events = [line["event"] for line in system.lines]
    assert events[-3:] == ["draining", "sending clients away", "stopped"]


async def test_second_signal_ends_it_at_once() -> None:
    async with started(ROOMCAST_CONN__WEBSOCKET__CLOSETIMEOUT="60s") as system:
        host, port = system.page.removeprefix("http://").rstrip("/").split(":")
        # Its other end takes no notice of the close frame: the drain would wait.
        async with await trio.open_tcp_stream(host, int(port)) as silent:
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            upgrade = (
                f"GET /room HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n"
            )
            await silent.send_all(upgrade.encode())
            assert (await silent.receive_some()).startswith(b"HTTP/1.1 101 ")
            system.process.send_signal(signal.SIGTERM)
            await system.until_said("sending clients away")
            system.process.send_signal(signal.SIGTERM)
            assert await system.exit_code() == 128 + signal.SIGTERM
    assert system.lines[-1]["event"] == "stopped"


async def test_sighup_opens_the_log_file_again(tmp_path: Path) -> None:
    log = tmp_path / "log" / "live.log"
    async with started(ROOMCAST_LOG__FILE=str(log)) as system:
        moved = log.rename(tmp_path / "old.log")
        system.process.send_signal(signal.SIGHUP)
        await system.until_said("log reopened")
        system.process.send_signal(signal.SIGTERM)
        assert await system.exit_code() == 0
    before, after = (
        [json.loads(line)["event"] for line in file.read_text().splitlines()] for file in (moved, log)
    )
    assert before[0] == "starting"
    assert (after[0], after[-1]) == ("log reopened", "stopped")


def test_taken_port_is_said_in_one_line_with_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = format_address(*taken.getsockname()[:2])
        environment = os.environ | {
            "ROOMCAST_CONN__WEBSOCKET__BIND": address,
            "ROOMCAST_CONN__ADMIN__BIND": "127.0.0.1:0",
            "ROOMCAST_LOG__LEVEL": "error",
        }
        command = [sys.executable, "-W", "error", "-m", "standalone"]
        outcome = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False, env=environment
        )
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr == f"standalone: client port {address}: Address already in use\n"
