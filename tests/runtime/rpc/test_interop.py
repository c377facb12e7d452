"""C-core gRPC (grpcio) against both of our ends, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.tls import client_tls, server_tls
from tests.runtime.rpc.certificates import Certificates, make_certificates
from tests.runtime.rpc.probe import LIMITS, Probe, serving, until
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Ask

pytestmark = pytest.mark.usefixtures("no_leaks")

PEERS = Path(__file__).parent / "peers"
ROOT = Path(__file__).parents[3]
MIB = 1 << 20
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("secure", [False, True], ids=["cleartext", "mTLS"])
async def test_grpcio_calls_our_server(certificates: Certificates, *, secure: bool) -> None:
    tls = server_tls(certificates.server, certificates.server_key, client_ca=certificates.ca)
    files = [certificates.ca, certificates.client, certificates.client_key] if secure else []
    probe = Probe()
    async with serving([probe], tls=tls if secure else None) as server:
        command = [sys.executable, str(PEERS / "grpcio_client.py"), server.addresses[0], *map(str, files)]
        with trio.fail_after(30):
            done = await trio.run_process(command, capture_stdout=True, env=ENVIRONMENT)
        await until(lambda: server.statistics().in_flight == 0)
    assert json.loads(done.stdout) == {
        "echo": 5,
        "3 MB": 3 * MIB,
        "5 MB": "RESOURCE_EXHAUSTED",
        "down": True,
        "up": 400,
        "chat": True,
        "refuse": "NOT_FOUND",
        "text": "没有",
        "fail": "UNKNOWN",
        "unknown method": "UNIMPLEMENTED",
        "deadline": "DEADLINE_EXCEEDED",
        "cancel": True,
    }
    assert sorted(probe.cancelled) == [1, 2]
    failures = server.statistics().failures
    assert "protocol error" not in failures
    assert "internal error" not in failures


@asynccontextmanager
async def grpcio_server(*files: Path) -> AsyncIterator[tuple[str, trio.Process]]:
    async with trio.open_nursery() as nursery:
        command = [sys.executable, str(PEERS / "grpcio_server.py"), *map(str, files)]
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            with trio.fail_after(20):
                port = (await process.stdout.receive_some()).split()[0].decode()
            yield f"127.0.0.1:{port}", process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            await process.stdout.aclose()
            await process.stdin.aclose()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("secure", [False, True], ids=["cleartext", "mTLS"])
async def test_our_channel_calls_a_grpcio_server(certificates: Certificates, *, secure: bool) -> None:
    files = [certificates.ca, certificates.server, certificates.server_key] if secure else []
    tls = client_tls(ca=certificates.ca, certificate=certificates.client, key=certificates.client_key)
    async with (
        grpcio_server(*files) as (address, process),
        open_channel(address, tls=tls if secure else None, limits=LIMITS) as channel,
    ):
        stub = ProbeStub(channel)
        assert (await stub.Echo(Ask(id=3))).id == 3
        assert len((await stub.Echo(Ask(body=b"k" * (3 * MIB)))).body) == 3 * MIB
        assert (await stub.Up([Ask(body=b"123")] * 100)).id == 300
        answers = await stub.Down(Ask(count=300, body=b"y" * 1000))
        assert [answer.id for answer in answers] == list(range(300))
        async with stub.Chat.open() as stream:
            for number in range(100):
                await stream.send_message(Ask(id=number))
                answer = await stream.recv_message()
                assert answer is not None
                assert answer.id == number
            await stream.end()
            assert await stream.recv_message() is None

        async def status_of(ask: Ask, timeout: float | None = None) -> Status:
            with pytest.raises(RpcError) as caught:
                await stub.Echo(ask, timeout=timeout)
            return caught.value.status

        assert await status_of(Ask(wish="refuse")) is Status.NOT_FOUND
        assert await status_of(Ask(wish="fail")) is Status.UNKNOWN
        for _ in range(5):
            assert await status_of(Ask(sleep_s=30), timeout=0.05) is Status.DEADLINE_EXCEEDED
        stub.Echo.name = "/probe.Probe/Nothing"
        assert await status_of(Ask()) is Status.UNIMPLEMENTED
        stub.Echo.name = "/probe.Probe/Echo"

        with trio.move_on_after(0.1) as scope:
            await stub.Echo(Ask(sleep_s=30))
        assert scope.cancelled_caught
        with trio.fail_after(5):
            assert process.stdout is not None
            assert b"cancelled" in await process.stdout.receive_some()

        with trio.move_on_after(0.1):
            async with stub.Down.open() as down:
                await down.send_message(Ask(count=10_000, body=b"y" * 1000))
                await down.recv_message()
                await trio.sleep_forever()
        assert (await stub.Echo(Ask(id=4))).id == 4
        assert channel.statistics().reconnects == 0
        assert "protocol error" not in channel.statistics().failures


async def test_grpcio_server_that_stops_is_unavailable_to_calls_in_flight() -> None:
    async with grpcio_server() as (address, process), open_channel(address, limits=LIMITS) as channel:
        stub = ProbeStub(channel)
        await stub.Echo(Ask())
        statuses = []

        async def call() -> None:
            with pytest.raises(RpcError) as caught:
                await stub.Echo(Ask(sleep_s=30), timeout=20)
            statuses.append(caught.value.status)

        with trio.fail_after(8):
            async with trio.open_nursery() as calls:
                for _ in range(4):
                    calls.start_soon(call)
                await trio.sleep(0.2)
                assert process.stdin is not None
                await process.stdin.send_all(b"stop\n")
        # C-core resets what it gives up on stop; both say that nobody is there any more.
        assert set(statuses) <= {Status.UNAVAILABLE, Status.CANCELLED}
