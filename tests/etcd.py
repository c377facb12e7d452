"""A real etcd for tests: a process of their own, on ports of its own, with its data in a folder.

A test takes the fixture `etcd`, or `etcd_path` and `start_etcd` where it wants flags; a conftest.py imports
both fixtures.  Heartbeats are short, so that leases of 1 s are possible.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import httpx2
import pytest
import trio

from tests.http import http_client
from tests.ports import port_of, reserve_port
from tests.runtime.rpc.certificates import Certificates

STARTED_WITHIN_S = 20.0
ENDED_WITHIN_S = 10.0


class Etcd:
    """One etcd with a folder and ports that it keeps when it is started again.

    Attributes:
        address: for clients, "host:port".
    """

    def __init__(self, executable: str, folder: Path, *, certificates: Certificates | None = None) -> None:
        self.reserved = reserve_port(), reserve_port(), reserve_port()
        self.address, peer, health = (f"127.0.0.1:{port_of(held)}" for held in self.reserved)
        self.process: trio.Process | None = None
        self._executable = executable
        self._data = folder / "data.etcd"
        self._log = folder / "etcd.log"
        self._certificates = certificates
        self._peer = f"http://{peer}"
        self._health = f"http://{health}"

    def _command(self) -> list[str]:
        scheme = "https" if self._certificates else "http"
        command = [
            *(self._executable, "--data-dir", str(self._data)),
            *("--listen-client-urls", f"{scheme}://{self.address}"),
            *("--advertise-client-urls", f"{scheme}://{self.address}"),
            *("--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer),
            *("--initial-cluster", f"default={self._peer}", "--listen-metrics-urls", self._health),
            *("--heartbeat-interval", "10", "--election-timeout", "100"),
            *("--logger", "zap", "--log-level", "warn"),
        ]
        if self._certificates:
            command += [
                *("--cert-file", str(self._certificates.server)),
                *("--key-file", str(self._certificates.server_key)),
                *("--trusted-ca-file", str(self._certificates.ca), "--client-cert-auth"),
            ]
        return command

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = await trio.lowlevel.open_process(self._command(), stdout=log, stderr=STDOUT)
        with trio.fail_after(STARTED_WITHIN_S):
            async with http_client() as client:
                while not await self._is_healthy(client):
                    assert self.process.poll() is None, self._log.read_text()
                    await trio.sleep(0.02)

    async def _is_healthy(self, client: httpx2.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self._health}/health")).status_code == 200
        except httpx2.TransportError:
            return False

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process; without a number as a power failure does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            with trio.fail_after(ENDED_WITHIN_S):
                await self.process.wait()

    def wipe(self) -> None:
        """Forget all data; the process must have ended."""
        assert self.process is None or self.process.poll() is not None
        shutil.rmtree(self._data)

    async def restart(self, *, wiped: bool = False) -> None:
        """End it and start it again, on request without its data."""
        await self.end()
        if wiped:
            self.wipe()
        await self.start()

    def freeze(self) -> None:
        """Let it answer nothing any more, with its connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def ask(self, path: str, body: Mapping[str, Any], token: str = "") -> dict[str, Any]:
        """Return what it answers to `/v3/path`; without TLS only."""
        headers = {"Authorization": token} if token else {}
        async with http_client() as client:
            answer = await client.post(f"http://{self.address}/v3/{path}", json=dict(body), headers=headers)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return told

    async def keys(self) -> dict[str, str]:
        """Return all that it holds."""
        answer = await self.ask("kv/range", {"key": base64_of("\0"), "range_end": base64_of("\0")})
        return {
            base64.b64decode(pair["key"]).decode(): base64.b64decode(pair.get("value", "")).decode()
            for pair in answer.get("kvs", [])
        }

    async def put(self, key: str, value: str, lease: int = 0) -> int:
        """Set a key and return the revision."""
        body = {"key": base64_of(key), "value": base64_of(value), "lease": lease}
        return int((await self.ask("kv/put", body))["header"]["revision"])

    async def delete(self, key: str) -> None:
        await self.ask("kv/deleterange", {"key": base64_of(key)})


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@asynccontextmanager
async def start_etcd(
    executable: str, folder: Path, *, certificates: Certificates | None = None
) -> AsyncIterator[Etcd]:
    """Start an etcd that keeps its data in `folder`; leaving the context kills it.

    Args:
        executable: what the fixture `etcd_path` has found.
        folder: must exist.
        certificates: speak TLS only, and only with clients that have one of the same authority.
    """
    etcd = Etcd(executable, folder, certificates=certificates)
    try:
        await etcd.start()
        yield etcd
    finally:
        with trio.CancelScope(shield=True):
            await etcd.end()
        for held in etcd.reserved:
            held.close()


@pytest.fixture
def etcd_path() -> str:
    """The program; without it a test is skipped, and fails in CI."""
    # Not async: a skip inside a nursery arrives as a group, and its reason is lost.
    executable = shutil.which("etcd")
    if executable is not None:
        return executable
    missing = "no etcd on PATH: install Debian's etcd-server to run this test"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.fixture
async def etcd(etcd_path: str, tmp_path: Path) -> AsyncIterator[Etcd]:
    """One etcd for one test."""
    async with start_etcd(etcd_path, tmp_path) as running:
        yield running
