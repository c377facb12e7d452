"""One of our services as a process of its own, whose settings and ports stay when it is started again."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import DEVNULL, STDOUT

import httpx2
import trio

from tests.http import http_client
from tests.ports import port_of, reserve_port

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "tests" / "vectors" / "go"
READY_WITHIN_S = 60.0
ENDED_WITHIN_S = 30.0
ASK_EVERY_S = 0.02
TAIL_LINES = 30


class Service:
    """A conn server, logic server or job worker, started from the Go system's example file.

    Attributes:
        name: "conn-1"
        rpc: "host:port" under which it is announced.
        admin: "host:port" of `/readyz` and `/metrics`.
        clients: "host:port" for clients, of a conn server.
        key: under which it is announced in etcd.
    """

    def __init__(self, kind: str, number: int, folder: Path, environ: Mapping[str, str]) -> None:
        self.kind = kind
        self.name = f"{kind}-{number}"
        self.process: trio.Process | None = None
        self.reserved = [reserve_port() for _ in range(3 if kind == "conn" else 2)]
        addresses = [f"127.0.0.1:{port_of(held)}" for held in self.reserved]
        self.rpc, self.admin = addresses[:2]
        self.clients = addresses[-1]
        self.key = f"/room_{kind}/{self.rpc}"
        self.log = folder / f"{self.name}.log"
        module = {"conn": "conn_server", "logic": "logic_server", "job": "job_worker"}[kind]
        self._command = [sys.executable, "-m", module, "-conf", str(EXAMPLES / f"{kind}-example.toml")]
        self._environ = {name: text for name, text in os.environ.items() if not name.startswith("ROOMCAST_")}
        self._environ |= environ
        self._environ |= {"ROOMCAST_SRV__LISTENADDR": self.rpc, "ROOMCAST_ADMIN__BIND": self.admin}
        if kind == "conn":
            self._environ["ROOMCAST_WEBSOCKET__BIND"] = self.clients

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def launch(self) -> None:
        """Start the process, and wait for nothing."""
        with self.log.open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                self._command, stdin=DEVNULL, stdout=log, stderr=STDOUT, cwd=ROOT, env=self._environ
            )

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        await self.launch()
        await self.wait_ready()

    async def wait_ready(self) -> None:
        with trio.fail_after(READY_WITHIN_S):
            async with http_client(timeout=5) as http:
                while True:
                    if await self._is_ready(http):
                        return
                    assert self.is_running, f"{self.name} has ended"
                    await trio.sleep(ASK_EVERY_S)

    async def _is_ready(self, http: httpx2.AsyncClient) -> bool:
        try:
            return (await http.get(f"http://{self.admin}/readyz")).status_code == 200
        except httpx2.TransportError:
            return False

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        with trio.fail_after(ENDED_WITHIN_S):
            return await self.process.wait()

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)

    async def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the process and start it again, with the same settings and ports."""
        await self.end(number)
        await self.start()

    def pause(self) -> None:
        """Let it do nothing any more, with its connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def numbers(self) -> dict[str, float]:
        """Return the samples of /metrics by name and labels."""
        async with http_client(timeout=10) as http:
            text = (await http.get(f"http://{self.admin}/metrics")).text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    async def wait_number(self, name: str, value: float) -> None:
        """Wait until a sample of /metrics has that value."""
        with trio.fail_after(READY_WITHIN_S):
            while True:
                if (await self.numbers()).get(name) == value:
                    return
                await trio.sleep(ASK_EVERY_S)

    def tail(self) -> str:
        """Return the last lines that it has written."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-TAIL_LINES:])

    async def aclose(self) -> None:
        """Kill what still runs, and give the ports back."""
        if self.is_running:
            await self.kill()
        for held in self.reserved:
            held.close()
