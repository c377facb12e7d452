from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from job_worker.app import Linking, keep_links, nsq_options, serve
from job_worker.settings import JobSettings, Nsq, Rpc
from job_worker.worker import open_worker
from runtime.failures import SetupError
from runtime.lifecycle import Drain
from runtime.metrics import Metrics
from runtime.queue.nsq import NsqOptions, NsqQueue
from runtime.rpc.server import RpcServer
from runtime.rpc.tls import dialing_tls, server_tls
from runtime.secret import Secret
from runtime.sections import Admin, ClientTls, Etcd
from schema.message import Level
from tests.http import http_client
from tests.job_worker.fakes import LOG, FakeQueue, message
from tests.job_worker.test_rpc import RecordingConn, serve_conn
from tests.ports import free_port
from tests.runtime.queue.nsq.daemons import Daemon, Flags, best_kind, open_nsqd
from tests.runtime.rpc.certificates import Certificates, make_certificates

pytestmark = pytest.mark.usefixtures("no_leaks")

CHANNEL = "room_job"


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  what is waited for is beyond sockets
            await trio.sleep(0.01)


@dataclass
class Running:
    """A job worker that serves, and what is around it."""

    nsqd: Daemon
    conns: list[RecordingConn]
    servers: list[RpcServer]
    drain: Drain
    admin: str
    ended: trio.Event

    async def ask(self, path: str) -> tuple[int, str]:
        async with http_client() as client:
            answer = await client.get(f"http://{self.admin}{path}")
            return answer.status_code, answer.text

    async def publish(self, *bodies: bytes, tls: ssl.SSLContext | None = None) -> None:
        async with NsqQueue(NsqOptions(nsqd=(self.nsqd.address,), tls=tls)).open_producer() as producer:
            await producer.publish("chat_room", bodies)

    async def until_status(self, path: str, status: int) -> None:
        with trio.fail_after(10):
            while (await self.ask(path))[0] != status:  # noqa: ASYNC110  beyond a socket
                await trio.sleep(0.02)

    async def until_stats(self, **wanted: int) -> None:
        """Wait until nsqd says so of the channel."""
        with trio.fail_after(10):
            while not wanted.items() <= (await self.nsqd.stats("chat_room", CHANNEL)).items():  # noqa: ASYNC110
                await trio.sleep(0.02)


@asynccontextmanager
async def open_job(
    folder: Path, *, drain_s: float = 10.0, files: Certificates | None = None
) -> AsyncIterator[Running]:
    """Run a job worker; with `files`, between conn servers that ask for certificates and an nsqd with one."""
    conns = [RecordingConn(), RecordingConn()]
    flags, tls = Flags(), None
    nsq_tls: dict[str, Any] = {}
    own: dict[str, Any] = {}
    if files is not None:
        flags = Flags(tls_cert=files.nsqd())
        tls = server_tls(files.server, files.server_key, client_ca=files.ca)
        nsq_tls, own = {"tls": True, "ca_file": str(files.ca)}, files.settings()
    async with (
        open_nsqd(best_kind(), folder / "nsqd", flags, wired=False) as nsqd,
        trio.open_nursery() as nursery,
    ):
        servers = [await serve_conn(nursery, conn, tls=tls) for conn in conns]
        settings = msgspec.structs.replace(
            JobSettings(),
            nsq=Nsq(addresses=(nsqd.address,), **nsq_tls),
            tls=ClientTls(**own, server_name="localhost" if own else ""),
            rpc=Rpc(conns=tuple(server.addresses[0] for server in servers)),
            etcd=Etcd(addrs=()),
            admin=Admin(bind="127.0.0.1:0"),
        )
        drain, ended = Drain(drain_s), trio.Event()

        async def run(*, task_status: trio.TaskStatus[str]) -> None:
            await serve(settings, drain, LOG, task_status=task_status)
            ended.set()

        admin = await nursery.start(run)
        yield Running(nsqd, conns, servers, drain, admin, ended)
        nursery.cancel_scope.cancel()


async def test_what_is_published_reaches_every_conn_server_and_is_finished(tmp_path: Path) -> None:
    async with open_job(tmp_path) as job:
        said = [message(number, f"room{number % 3}") for number in range(60)]
        await job.publish(
            *(each.encode() for each in said), b"\xff poison", message(99, level=Level.IMPORTANT).encode()
        )
        await job.until_stats(depth=0, in_flight=0, deferred=0)
        for conn in job.conns:
            for room in range(3):
                assert conn.numbers(f"room{room}") == list(range(room, 60, 3))
            assert conn.numbers("r") == [99]
            assert max(len(request.items) for request in conn.requests) <= 20
        status, text = await job.ask("/metrics")
        assert status == 200
        numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert numbers["roomcast_job_loans_finished_total"] == "61.0"
        assert numbers["roomcast_job_loans_malformed_total"] == "1.0"
        assert numbers["roomcast_job_delivery_lanes"] == "2.0"
        address = job.servers[0].addresses[0]
        assert float(numbers[f'roomcast_lane_answered_total{{conn="{address}"}}']) > 0
        assert numbers['roomcast_consumer_connections{partition="0"}'] == "1.0"


async def test_readiness_says_what_is_missing(tmp_path: Path) -> None:
    async with open_job(tmp_path) as job:
        await job.until_status("/readyz", 200)
        await job.nsqd.end()
        await job.until_status("/readyz", 503)
        _, text = await job.ask("/readyz")
        assert json.loads(text)["reasons"] == {"queue": "not connected to any nsqd"}
        assert (await job.ask("/livez"))[0] == 200


async def test_drain_finishes_what_is_on_loan_and_ends(tmp_path: Path) -> None:
    async with open_job(tmp_path) as job:
        await job.publish(*(message(number).encode() for number in range(10)))
        await until(lambda: job.conns[0].numbers("r") == [0])
        job.drain.start()
        with trio.fail_after(5):
            await job.ended.wait()
        assert job.conns[0].numbers("r") == job.conns[1].numbers("r") == list(range(10))
        await job.until_stats(clients=0, depth=0, in_flight=0, deferred=0)


async def test_drain_gives_back_what_it_cannot_deliver_before_its_deadline(tmp_path: Path) -> None:
    async with open_job(tmp_path, drain_s=4.0) as job:
        for conn in job.conns:
            conn.stalls = True
        await job.publish(message(1, level=Level.IMPORTANT).encode())
        await job.until_stats(in_flight=1)
        job.drain.start()
        with trio.fail_after(4.5):
            await job.ended.wait()
        assert trio.current_time() <= job.drain.deadline
        stats = await job.nsqd.stats("chat_room", CHANNEL)
        assert (stats["in_flight"], stats["depth"] + stats["deferred"]) == (0, 1)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.3])
async def test_cancelled_service_leaves_nothing(tmp_path: Path, after_s: float) -> None:
    async with open_job(tmp_path) as job:
        await job.publish(*(message(number, f"room{number}").encode() for number in range(10)))
        await trio.sleep(after_s)
    assert not job.ended.is_set()


async def test_conn_servers_and_nsqd_are_spoken_to_through_mutual_tls(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    async with open_job(tmp_path, files=files) as job:
        await job.publish(message(1).encode(), tls=ssl.create_default_context(cafile=files.ca))
        await until(lambda: all(conn.numbers("r") == [1] for conn in job.conns))
        assert {server.statistics().connected for server in job.servers} == {1}


@pytest.mark.parametrize("has_authority", [True, False])
async def test_conn_server_that_asks_for_certificates_takes_nothing_from_who_has_none(
    nursery: trio.Nursery, tmp_path: Path, has_authority: bool
) -> None:
    files, conn = make_certificates(tmp_path), RecordingConn()
    theirs = server_tls(files.server, files.server_key, client_ca=files.ca)
    server = await serve_conn(nursery, conn, tls=theirs)
    queue, peers, settings = FakeQueue(), FakePeers(*server.addresses), JobSettings()
    ours = dialing_tls(ClientTls(ca_file=str(files.ca) if has_authority else ""))
    async with open_worker(settings, queue, LOG) as worker, trio.open_nursery() as links:
        links.start_soon(keep_links, peers, Linking(settings, worker, Metrics(), LOG, ours))
        await until(lambda: worker.has_conn_servers)
        (consumer,) = queue.consumers.values()
        consumer.put(message(1))
        await until(lambda: server.statistics().failures.get("tls handshake", 0) >= 2)
        assert conn.requests == []
        assert consumer.answers == [None]
        links.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def test_certificates_that_cannot_be_read_are_said_in_one_line_before_anything_is_opened(
    tmp_path: Path,
) -> None:
    files = make_certificates(tmp_path)
    files.ca.unlink()
    for section, changes in (
        ("tls", {"tls": ClientTls(**files.settings())}),
        ("nsq", {"nsq": Nsq(**files.settings(), tls=True)}),
    ):
        with pytest.raises(
            SetupError, match=rf"^\[{section}\] caFile {files.ca}: No such file or directory$"
        ):
            await serve(msgspec.structs.replace(JobSettings(), **changes), Drain(1.0), LOG)


class FakePeers:
    """Discovery's list, in the hands of the test."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = frozenset(addresses)
        self._changed = trio.lowlevel.ParkingLot()

    def set(self, *addresses: str) -> None:
        self.addresses = frozenset(addresses)
        self._changed.unpark_all()

    async def wait_changed(self, seen: frozenset[str]) -> frozenset[str]:
        while self.addresses == seen:
            await self._changed.park()
        return self.addresses


async def test_conn_servers_get_lanes_as_they_come_and_go(nursery: trio.Nursery) -> None:
    first, second = RecordingConn(), RecordingConn()
    servers = [await serve_conn(nursery, conn) for conn in (first, second)]
    addresses = [server.addresses[0] for server in servers]
    queue, peers, settings = FakeQueue(), FakePeers(), JobSettings()
    async with open_worker(settings, queue, LOG) as worker, trio.open_nursery() as links:
        metrics = Metrics()
        links.start_soon(keep_links, peers, Linking(settings, worker, metrics, LOG, None))
        (consumer,) = queue.consumers.values()
        consumer.put(message(1))
        await trio.testing.wait_all_tasks_blocked()
        assert consumer.is_paused
        peers.set(addresses[0])
        await until(lambda: first.numbers("r") == [1])
        peers.set(*addresses)
        await until(lambda: worker.statistics().delivery.lanes == 2)
        consumer.put(message(2, "s"))
        await until(lambda: first.numbers("s") == second.numbers("s") == [2])
        assert addresses[1].encode() in metrics.render()
        for _ in range(3):
            peers.set(addresses[0])
            peers.set(*addresses)
        peers.set(addresses[0])
        servers[1].drain(0.0)
        await until(lambda: worker.statistics().delivery.lanes == 1)
        consumer.put(message(3, "s"))
        await until(lambda: first.numbers("s") == [2, 3])
        peers.set()
        servers[0].drain(0.0)
        await until(lambda: not worker.has_conn_servers)
        assert consumer.is_paused
        await until(lambda: b'conn="' not in metrics.render())
        links.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def test_conn_server_that_is_withdrawn_is_pushed_to_until_it_has_gone(nursery: trio.Nursery) -> None:
    """One that drains is withdrawn first, and has members for as long as it takes to send them away."""
    conn = RecordingConn()
    server = await serve_conn(nursery, conn)
    queue, peers, settings = FakeQueue(), FakePeers(*server.addresses), JobSettings()
    async with open_worker(settings, queue, LOG) as worker, trio.open_nursery() as links:
        links.start_soon(keep_links, peers, Linking(settings, worker, Metrics(), LOG, None))
        (consumer,) = queue.consumers.values()
        consumer.put(message(1))
        await until(lambda: conn.numbers("r") == [1])
        peers.set()
        for number in (2, 3):
            consumer.put(message(number, level=Level.IMPORTANT))
        await until(lambda: conn.numbers("r") == [1, 2, 3])
        # Announced again, it keeps its stream.
        peers.set(*server.addresses)
        consumer.put(message(4, level=Level.IMPORTANT))
        await until(lambda: conn.numbers("r") == [1, 2, 3, 4])
        assert conn.streams == 1
        peers.set()
        server.drain(0.0)
        await until(lambda: not worker.has_conn_servers)
        links.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def test_withdrawn_conn_server_that_cannot_be_reached_is_forgotten_at_once(
    nursery: trio.Nursery,
) -> None:
    address = f"127.0.0.1:{free_port()}"
    queue, peers, settings = FakeQueue(), FakePeers(address), JobSettings()
    async with open_worker(settings, queue, LOG) as worker, trio.open_nursery() as links:
        links.start_soon(keep_links, peers, Linking(settings, worker, Metrics(), LOG, None))
        await until(lambda: worker.has_conn_servers)
        peers.set()
        await until(lambda: not worker.has_conn_servers)
        # Known again while the way is being closed, it is opened again.
        peers.set(address)
        await until(lambda: worker.has_conn_servers)
        links.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


def test_settings_say_how_to_reach_nsqd() -> None:
    nsq = Nsq(addresses=("a:1", "b:2"), lookupd=("c:3",), msg_timeout_s=5.0, auth_secret=Secret(b"hush"))
    options = nsq_options(nsq)
    assert (options.nsqd, options.lookupd, options.msg_timeout_s) == (("a:1", "b:2"), ("c:3",), 5.0)
    assert options.auth_secret == "hush"
    assert nsq_options(Nsq()).auth_secret is None
