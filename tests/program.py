"""`python -m conn_server` and the others as processes, followed by what they log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).resolve().parents[1]


class Program:
    """A service, and its workers if it has some, which all say what they do into one pipe.

    Attributes:
        lines: log lines, and what is none under `text`.
        ended: nobody has the pipe open any more: all of them are gone.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.ended = trio.Event()
        self._more = trio.Event()

    async def read(self) -> None:
        assert self.process.stderr is not None
        rest = b""
        async for chunk in self.process.stderr:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.lines.append(json.loads(line) if line.startswith(b"{") else {"text": line.decode()})
            self._more.set()
            self._more = trio.Event()
        self.ended.set()
        self._more.set()

    def find(self, event: str, **fields: object) -> list[dict[str, Any]]:
        wanted = {"event": event, **fields}.items()
        return [line for line in self.lines if wanted <= line.items()]

    async def wait(self, event: str, times: int = 1, **fields: object) -> dict[str, Any]:
        """Return the line `event` with `fields`, once it has come so many times."""
        while len(found := self.find(event, **fields)) < times:
            assert not self.ended.is_set(), f"it has ended without {event!r}: {self.lines}"
            await self._more.wait()
        return found[times - 1]

    async def pid(self, number: int) -> int:
        pid = (await self.wait("worker started", worker=number))["pid"]
        assert isinstance(pid, int)
        return pid


@asynccontextmanager
async def started(module: str, folder: Path, *arguments: str, **environ: str) -> AsyncIterator[Program]:
    """Start it as a unit does; the block is left once all of it has ended, and kills what is left of it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROOMCAST_")}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), **environ},
    )
    program = Program(process)
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(program.read)
                yield program
                await program.ended.wait()
                await process.wait()
    finally:
        process.kill()
        for line in program.find("worker started"):
            if not program.ended.is_set():
                with suppress(ProcessLookupError):
                    os.kill(line["pid"], signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stderr is not None
        await process.stderr.aclose()
