"""A conn server as a service: how it starts, says that it is ready, and is stopped."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import pytest
import structlog
import trio
from click.testing import CliRunner
from wsproto.utilities import ProtocolError

from conn_server import app
from conn_server.__main__ import main
from conn_server.app import Serving, serve
from conn_server.settings import ConnSettings, Rpc, WebSocket
from runtime.failures import setup_problems
from runtime.lifecycle import Drain
from runtime.rpc.channel import open_channel
from runtime.sections import Admin, Registration
from runtime.units import format_address
from schema.batch import pack
from schema.envelope import HEARTBEAT
from schema.proto import conn_pb2 as pb
from schema.proto.conn_grpc import ConnStub
from schema.tokens import TokenAuthority
from tests.conftest import OPEN_FILES
from tests.conn_server.logic_nodes import FakePeers, LogicNode, nodes
from tests.conn_server.serving import SUC, Peer, message, sign_in
from tests.http import http_client
from tests.logic_server.fakes import KEY, NOW
from tests.program import started

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "vectors" / "go" / "conn-example.toml"
LOG = structlog.get_logger("test")
LOOPBACK = "127.0.0.1:0"
TOKEN = TokenAuthority(KEY).issue("42", NOW)
PUSH = pb.BroadcastRoomReq(roomID="lobby", data=pack([b"pushed"]))
BROKEN = (
    *(httpx2.TransportError, OSError, ProtocolError, AssertionError),
    *(trio.BrokenResourceError, trio.ClosedResourceError),
)


@dataclass
class FakeDiscovery:
    """Knows logic servers, and notes who is announced.

    Attributes:
        withdraw: withdrawing waits for it.
        withdrawing: that has begun.
    """

    peers: FakePeers
    announced: list[tuple[str, str]] = field(default_factory=list)
    withdraw: trio.Event = field(default_factory=trio.Event)
    withdrawing: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def open(self, *_: object, **__: object) -> AsyncIterator[FakeDiscovery]:
        yield self

    @asynccontextmanager
    async def watch(self, service: str) -> AsyncIterator[FakePeers]:
        assert service == "room_logic"
        yield self.peers

    @asynccontextmanager
    async def announce(self, service: str, address: str) -> AsyncIterator[None]:
        self.announced.append((service, address))
        yield
        self.withdrawing.set()
        await self.withdraw.wait()

    def statistics(self) -> dict[str, int]:
        return {}


@dataclass
class Running:
    """A conn server that serves.

    Attributes:
        scope: of it alone; cancelling it leaves the test running.
        ended: it has come to its end.
    """

    settings: ConnSettings
    drain: Drain = field(default_factory=lambda: Drain(20.0))
    at: Serving = field(default_factory=lambda: Serving("", "", "", tls=False))
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            await serve(self.settings, self.drain, LOG, task_status=task_status)
        self.ended.set()

    async def connect(self) -> Peer:
        host, port = self.at.clients.split(":")
        peer = Peer(await trio.open_tcp_stream(host, int(port)))
        try:
            await peer.upgrade()
        except BaseException:
            await peer.aclose()
            raise
        return peer

    async def join(self) -> Peer:
        peer = await self.connect()
        await peer.say(sign_in("lobby", TOKEN))
        assert await peer.hear() == SUC
        return peer

    async def readiness(self) -> tuple[int, dict[str, str]]:
        async with http_client() as client:
            answer = await client.get(f"http://{self.at.admin}/readyz")
            return answer.status_code, json.loads(answer.text)["reasons"]

    async def until_ready(self, status: int = 200) -> dict[str, str]:
        with trio.fail_after(10):
            while True:
                code, reasons = await self.readiness()
                if code == status:
                    return reasons
                await trio.sleep(0.02)

    async def push(self) -> None:
        async with open_channel(self.at.rpc) as channel:
            await ConnStub(channel).BroadcastRoom(PUSH)


def settings_for(*logic: str, **sections: object) -> ConnSettings:
    given = {
        "websocket": WebSocket(bind=LOOPBACK),
        "rpc": Rpc(logic=logic or ("127.0.0.1:9",)),
        "registration": Registration(service_name="room_conn", listen_address=LOOPBACK),
        "admin": Admin(bind=LOOPBACK),
    }
    return msgspec.structs.replace(ConnSettings(), **given | sections)


@asynccontextmanager
async def running(*logic: str) -> AsyncIterator[Running]:
    conn = Running(settings_for(*logic))
    async with trio.open_nursery() as nursery:
        conn.at = await nursery.start(conn.run)
        try:
            yield conn
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def discovered(
    node: LogicNode, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[FakeDiscovery, Running]]:
    discovery = FakeDiscovery(FakePeers([node.address]))
    monkeypatch.setattr(app, "open_discovery", discovery.open)
    async with running() as conn:
        await conn.until_ready()
        yield discovery, conn


async def test_readiness_follows_the_logic_servers() -> None:
    async with nodes(None) as (logic,), running(logic.address) as conn:
        await conn.until_ready()
        await logic.end()
        assert await conn.until_ready(503) == {"logic servers": "no link to any logic server"}
        await logic.start()
        await conn.until_ready()


async def test_drain_withdraws_first_and_serves_everybody_until_that_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with nodes(None) as (logic,), discovered(logic, monkeypatch) as (discovery, conn):
        assert discovery.announced == [("room_conn", conn.at.rpc)]
        peer = await conn.join()
        conn.drain.start()
        await discovery.withdrawing.wait()
        assert (await conn.readiness())[0] == 503
        # Until nobody can find it any more: new clients, messages and pushes are as welcome as ever.
        late = await conn.join()
        await late.say(message("lobby", b"said", 1))
        assert pb.Reply.FromString(await late.hear()).type == pb.ACK
        await conn.push()
        for each in (peer, late):
            assert pb.Reply.FromString(await each.hear()).type == pb.MESSAGE
        discovery.withdraw.set()
        for each in (peer, late):
            closed = await each.closed()
            assert (closed.code, closed.reason) == (1001, '{"retry_after_ms":2000}')
            await each.aclose()
        with trio.fail_after(10):
            await conn.ended.wait()


async def test_job_workers_are_answered_until_the_last_client_is_gone() -> None:
    async with nodes(None) as (logic,), running(logic.address) as conn:
        await conn.until_ready()
        peer = await conn.join()
        conn.drain.start()
        assert (await peer.closed()).code == 1001
        await conn.push()  # to nobody, but answered: the job worker must not try again elsewhere
        assert not conn.ended.is_set()
        await peer.aclose()
        with trio.fail_after(10):
            await conn.ended.wait()


async def test_drain_takes_no_longer_than_what_there_is_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took a second longer, always: what says whether logic is there was waited for, and never ends."""
    monkeypatch.setattr(app, "LAST_CALLS_S", 60.0)
    async with nodes(None) as (logic,), running(logic.address) as conn:
        conn.drain.start()
        with trio.fail_after(10):
            await conn.ended.wait()


# -- cancelled at any moment


def living() -> tuple[int, int]:
    """Count the tasks and open files that there are."""
    return trio.lowlevel.current_statistics().tasks_living, len(list(OPEN_FILES.iterdir()))


async def pass_checkpoints(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def live(conn: Running) -> None:
    """Do what clients and job workers do, until the server is gone."""

    async def talk() -> None:
        with suppress(*BROKEN):
            peer = await conn.connect()
            try:
                await peer.say(sign_in("lobby", TOKEN))
                await peer.say(message("lobby", b"said", 1))
                while True:
                    await peer.say(HEARTBEAT)
                    await peer.hear()
            finally:
                await peer.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(talk)
        await conn.ended.wait()
        nursery.cancel_scope.cancel()


async def test_cancelled_at_any_moment_it_leaves_nothing() -> None:
    async with nodes(None) as (logic,):
        before = None
        for moment in (*range(0, 60, 4), *range(60, 400, 40)):
            conn = Running(settings_for(logic.address))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(conn.run)
                await pass_checkpoints(moment)
                conn.scope.cancel()
                await conn.ended.wait()
            await trio.testing.wait_all_tasks_blocked()  # the logic server notices that its link is gone
            before = before or living()
            assert living() == before, moment


@pytest.mark.parametrize("is_drained", [False, True], ids=["cancelled", "drained and cancelled"])
async def test_cancelled_while_clients_talk_it_leaves_nothing(is_drained: bool) -> None:
    async with nodes(None) as (logic,):
        before = None
        for moment in (*range(0, 30, 5), *range(30, 300, 45)):
            async with running(logic.address) as conn, trio.open_nursery() as nursery:
                nursery.start_soon(live, conn)
                if is_drained:
                    await pass_checkpoints(100)
                    conn.drain.start()
                await pass_checkpoints(moment)
                conn.scope.cancel()
                await conn.ended.wait()
            await trio.testing.wait_all_tasks_blocked()
            before = before or living()
            assert living() == before, moment


# -- what keeps it from starting


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield format_address(*listener.getsockname()[:2])


@pytest.mark.parametrize("port", ["client port", "gRPC port"])
async def test_taken_port_is_said_in_one_line(port: str, taken: str) -> None:
    if port == "client port":
        settings = settings_for(websocket=WebSocket(bind=taken))
    else:
        settings = settings_for(registration=Registration(service_name="room_conn", listen_address=taken))
    with pytest.raises(ExceptionGroup) as caught:
        await serve(settings, Drain(1.0), LOG)
    assert setup_problems(caught.value) == [f"{port} {taken}: Address already in use"]


# -- the process


@pytest.mark.parametrize("flag", ["-conf {}", "-conf={}", "--conf {}"])
def test_settings_of_the_go_system_are_taken_and_shown_with_their_source(flag: str) -> None:
    outcome = CliRunner().invoke(main, [*flag.format(EXAMPLE).split(), "--check"])
    assert outcome.exit_code == 0
    assert "conn-example.toml" in outcome.output
    assert 'srvName = "room_conn"' in outcome.output


def test_open_tk_needs_a_secret() -> None:
    environment = {"ROOMCAST_TOKEN__ISSUE": "true", "ROOMCAST_TOKEN_SECRET": None}
    outcome = CliRunner().invoke(main, ["-conf", str(EXAMPLE)], env=environment)
    assert outcome.exit_code == 2
    assert "ROOMCAST_TOKEN_SECRET" in outcome.output


async def test_process_starts_without_its_neighbours_and_drains_on_sigterm(tmp_path: Path) -> None:
    conf = tmp_path / "conn.toml"
    conf.write_text(
        f'[websocket]\nbind = "{LOOPBACK}"\n[etcd]\naddrs = []\n[rpc]\nlogic = ["127.0.0.1:9"]\n'
        f'[srv]\nlistenAddr = "{LOOPBACK}"\n[admin]\nbind = "{LOOPBACK}"\n[log]\nformat = "json"\n'
    )
    async with started("conn_server", tmp_path, f"-conf={conf}") as program:
        at = Serving((await program.wait("serving"))["clients"], "", "", tls=False)
        peer = await Running(settings_for(), at=at).connect()
        program.process.send_signal(signal.SIGTERM)
        assert (await peer.closed()).code == 1001
        await peer.aclose()
    assert program.process.returncode == 0
    assert program.lines[-1]["event"] == "stopped"
