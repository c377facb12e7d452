"""The servers that are compared, each as a child process on a port of its own and on one core."""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from bench.procstat import children_of, listeners_at
from bench.run import ROOT, end

READY_WITHIN_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.05
_FLOOR_SOURCE: Final = Path(__file__).parent / "peers" / "floor.c"

OURS_SETTINGS: Final = """\
[conn.bucket]
size = 32
conns = 1024

[conn.websocket]
bind = "127.0.0.1:{port}"
perAddress = 0
acceptRate = 0.0    # nobody else paces a storm

[conn.admin]
bind = "127.0.0.1:{admin_port}"

[log]
level = "warning"
"""

CONN_SETTINGS: Final = """\
[bucket]
size = 32
conns = 1024

[websocket]
bind = "127.0.0.1:{port}"
workers = {workers}
acceptRate = 0.0

[token]
verify = "local"

[rpc]
logic = []    # nobody is asked about tokens, and nobody publishes

[srv]
listenAddr = "127.0.0.1:0"

[admin]
bind = "127.0.0.1:0"

[log]
level = "error"
"""


class NotStarted(Exception):
    """A server does not serve; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that serves.

    Attributes:
        pids: whose CPU time and memory count.
        secret: signs tokens for it; empty where any token does.
        tokens: those that it gave for the asking.
    """

    url: str
    pids: tuple[int, ...]
    secret: str = field(default="", repr=False)
    tokens: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to start a server.

    Attributes:
        name: what it is called in tables.
        command: (port, folder for its files, secret) -> arguments.
        workers: processes that listen.
        is_usual: whether it is compared where no servers are named.
    """

    name: str
    title: str
    command: Callable[[int, Path, str], Sequence[str]]
    workers: int = 1
    is_usual: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """A server that somebody else has started."""

    name: str
    running: Running


Contender = Recipe | Address


def _ours(port: int, folder: Path, _: str) -> Sequence[str]:
    settings = folder / "standalone.toml"
    settings.write_text(OURS_SETTINGS.format(port=port, admin_port=free_port()))
    return sys.executable, "-m", "standalone", "-conf", str(settings)


def _conn(workers: int) -> Callable[[int, Path, str], Sequence[str]]:
    def command(port: int, folder: Path, _: str) -> Sequence[str]:
        settings = folder / "conn.toml"
        settings.write_text(CONN_SETTINGS.format(port=port, workers=workers))
        return sys.executable, "-m", "conn_server", "-conf", str(settings)

    return command


def _floor(port: int, folder: Path, _: str) -> Sequence[str]:
    program = folder / "floor"
    try:
        compiled = subprocess.run(
            ["cc", "-O2", "-o", str(program), str(_FLOOR_SOURCE)], capture_output=True, text=True, check=False
        )
    except OSError as exc:
        raise NotStarted(f"cc: {exc}") from exc
    if compiled.returncode:
        raise NotStarted(f"cc: {compiled.stderr.strip()}")
    return str(program), str(port)


def _peer(module: str) -> Callable[[int, Path, str], Sequence[str]]:
    return lambda port, _, __: (sys.executable, "-m", f"bench.peers.{module}", str(port))


RECIPES: Final[Mapping[str, Recipe]] = {
    recipe.name: recipe
    for recipe in (
        Recipe("floor", "C epoll floor", _floor),
        Recipe("ours", "this project, all in one process", _ours),
        Recipe("conn", "our conn server alone, which checks tokens itself", _conn(1), is_usual=False),
        Recipe("conn-2", "the same with two workers", _conn(2), workers=2, is_usual=False),
        Recipe("picows", "picows on uvloop", _peer("picows_peer")),
        Recipe("websockets", "websockets on uvloop", _peer("websockets_peer")),
        Recipe("trio-websocket", "stock trio-websocket", _peer("trio_websocket_peer")),
    )
}


def by_hand(text: str, secret: str) -> Contender:
    """Read a server given as `NAME=ws://HOST:PORT/room#PID,PID` or as `NAME=COMMAND with {port}`.

    Raises:
        ValueError: it is neither.
    """
    name, found, value = text.partition("=")
    if not found or not name:
        raise ValueError(f"{text}: expected NAME=ADDRESS or NAME=COMMAND")
    if value.startswith(("ws://", "wss://")):
        url, _, pids = value.partition("#")
        if not all(pid.isdigit() for pid in pids.split(",") if pid):
            raise ValueError(f"{name}: behind # are process ids, not {pids!r}")
        return Address(name, Running(url, tuple(int(pid) for pid in pids.split(",") if pid), secret))
    if "{port}" not in value:
        raise ValueError(f"{name}: neither an address (ws://…) nor a command with {{port}}")
    try:
        words = shlex.split(value)
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}") from None
    # Not format(): other braces are the command's own.
    return Recipe(name, value, lambda port, _, __: [word.replace("{port}", str(port)) for word in words])


@asynccontextmanager
async def open_contender(contender: Contender, cpu: int | None) -> AsyncIterator[Running]:
    """Start a server if need be, on one core; it ends with the context.

    Raises:
        NotStarted: it does not serve within READY_WITHIN_S.
    """
    if isinstance(contender, Address):
        yield contender.running
        return
    secret = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="roomcast-bench-") as folder:
        port = free_port()
        command = contender.command(port, Path(folder), secret)
        with (Path(folder) / "output").open("w+") as output:
            process = await _start(command, output.fileno(), secret)
            try:
                _keep_on_core(process, cpu)
                await _wait_until_served(process, port, contender.workers, Path(folder) / "output")
                pids = (process.pid, *children_of(process.pid))
                yield Running(f"ws://127.0.0.1:{port}/room", pids, secret)
            finally:
                process.terminate()
                with trio.CancelScope(shield=True):
                    await end(process)


async def _start(command: Sequence[str], output: int, secret: str) -> trio.Process:
    try:
        process = await trio.lowlevel.open_process(
            list(command),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "ROOMCAST_TOKEN_SECRET": secret},
        )
    except OSError as exc:
        raise NotStarted(f"{command[0]}: {exc}") from exc
    return process


def _keep_on_core(process: trio.Process, cpu: int | None) -> None:
    if cpu is None:
        return
    try:
        os.sched_setaffinity(process.pid, {cpu})
    except OSError as exc:
        raise NotStarted(f"core {cpu}: {exc}") from exc


async def _wait_until_served(process: trio.Process, port: int, workers: int, output: Path) -> None:
    with trio.move_on_after(READY_WITHIN_S):
        while process.poll() is None:
            if listeners_at(port) >= workers:
                return
            await trio.sleep(_LOOK_AGAIN_S)
    said = await trio.Path(output).read_text(errors="replace")
    raise NotStarted(said.strip()[-2000:] or "it does not listen")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
