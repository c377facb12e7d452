from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from conn_server.links import LogicLinks
from conn_server.rpc import open_logic
from logic_server import app
from logic_server.app import nsq_options, serve
from logic_server.settings import LogicSettings, Nsq
from runtime.failures import SetupError, setup_problems
from runtime.lifecycle import Drain
from runtime.queue.nsq import NsqOptions, NsqQueue
from runtime.rpc.tls import client_tls
from runtime.secret import Secret
from runtime.sections import Admin, Etcd, Registration, ServerTls, TokenKey
from schema.access import Unavailable
from schema.message import Message
from schema.tokens import TokenAuthority
from tests.conn_server.logic_nodes import OPTIONS, FakePeers
from tests.http import http_client
from tests.logic_server.fakes import KEY, message
from tests.runtime.queue.nsq.daemons import Daemon, Flags, open_nsqd
from tests.runtime.rpc.certificates import Certificates, make_certificates
from tests.runtime.rpc.probe import until

pytestmark = pytest.mark.usefixtures("no_leaks")

LOG = structlog.get_logger("test")
SETTINGS = msgspec.structs.replace(
    LogicSettings(),
    registration=Registration(service_name="room_logic", listen_address="127.0.0.1:0"),
    token=TokenKey(secret=Secret(KEY)),
    etcd=Etcd(addrs=()),
    admin=Admin(bind="127.0.0.1:0"),
)


class FakeDiscovery:
    """Notes who is announced, and whether somebody still listens there when it is withdrawn."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    @asynccontextmanager
    async def open(self, *_: object, **__: object) -> AsyncIterator[FakeDiscovery]:
        yield self

    @asynccontextmanager
    async def announce(self, service: str, address: str) -> AsyncIterator[None]:
        self.events.append(("announced", service, address))
        yield
        host, port = address.split(":")
        await trio.aclose_forcefully(await trio.open_tcp_stream(host, int(port)))
        self.events.append(("withdrawn while listening", service, address))

    def statistics(self) -> dict[str, int]:
        return {}


@dataclass
class Running:
    """A logic server that serves, and what is around it."""

    nsqd: Daemon
    drain: Drain
    address: str
    announced: str
    admin: str
    ended: trio.Event

    async def ask(self, path: str) -> tuple[int, str]:
        async with http_client() as client:
            answer = await client.get(f"http://{self.admin}{path}")
            return answer.status_code, answer.text

    async def until_status(self, status: int) -> None:
        with trio.fail_after(10):
            while (await self.ask("/readyz"))[0] != status:  # noqa: ASYNC110  beyond a socket
                await trio.sleep(0.02)

    async def stored(self, count: int) -> list[Message]:
        queue = NsqQueue(NsqOptions(nsqd=(self.nsqd.address,)))
        with trio.fail_after(10):
            async with queue.open_consumer("chat_room", "check", max_in_flight=count) as consumer:
                consumer.resume()
                messages: list[Message] = []
                while len(messages) < count:
                    delivery = await consumer.receive()
                    messages.append(Message.decode(delivery.body))
                    delivery.finish()
                return messages


@asynccontextmanager
async def open_logic_server(
    folder: Path,
    *,
    drain_s: float = 10.0,
    files: Certificates | None = None,
    listen: str = "127.0.0.1:0",
) -> AsyncIterator[Running]:
    flags = Flags() if files is None else Flags(tls_cert=files.nsqd())
    async with open_nsqd("fake", folder / "nsqd", flags) as nsqd, trio.open_nursery() as nursery:
        settings = msgspec.structs.replace(
            SETTINGS,
            nsq=Nsq(addresses=(nsqd.address,)),
            registration=Registration(service_name="room_logic", listen_address=listen),
        )
        if files is not None:
            settings = msgspec.structs.replace(
                settings,
                nsq=Nsq(addresses=(nsqd.address,), tls=True, server_name="localhost", **files.settings()),
                tls=ServerTls(**files.settings(), client_auth=True),
            )
        drain, ended = Drain(drain_s), trio.Event()

        async def run(*, task_status: trio.TaskStatus[str]) -> None:
            await serve(settings, drain, LOG, task_status=task_status)
            ended.set()

        with capture_logs() as lines:
            address = await nursery.start(run)
        (serving,) = [line for line in lines if line["event"] == "serving"]
        announced = next((line["address"] for line in lines if "not announced" in line["event"]), "")
        yield Running(nsqd, drain, address, announced, serving["admin"], ended)
        nursery.cancel_scope.cancel()


async def publish_all(links: LogicLinks, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(1, count + 1):
            nursery.start_soon(links.publish, message(number, room=f"room {number % 3}"))


async def test_sign_in_and_messages_of_a_conn_server_reach_the_queue(tmp_path: Path) -> None:
    async with open_logic_server(tmp_path) as logic:
        async with open_logic(FakePeers([logic.address]), OPTIONS) as links:
            grant = await links.authenticate(TokenAuthority(KEY).issue("42", time.time()))
            assert grant.user == "42"
            await publish_all(links, 60)
            _, text = await logic.ask("/metrics")
        assert {each.origin_seq for each in await logic.stored(60)} == set(range(1, 61))
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert numbers["roomcast_logic_publish_stored_total"] == "60.0"
    assert numbers["roomcast_logic_tokens_accepted_total"] == "1.0"
    assert numbers["roomcast_link_links"] == "1.0"
    assert numbers["roomcast_producer_stored_total"] == "60.0"
    assert not [name for name in numbers if "scrape_errors" in name and numbers[name] != "0.0"]


async def test_conn_servers_and_nsqd_are_spoken_to_through_mutual_tls(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    conn = client_tls(ca=files.ca, certificate=files.client, key=files.client_key)
    stranger = client_tls(ca=files.ca)
    async with open_logic_server(tmp_path, files=files) as logic:
        async with open_logic(FakePeers([logic.address]), replace(OPTIONS, tls=conn)) as links:
            await links.publish(message(1))
        for tls in (stranger, None):
            async with open_logic(FakePeers([logic.address]), replace(OPTIONS, tls=tls)) as links:
                with pytest.raises(Unavailable):
                    await links.publish(message(2))
        _, text = await logic.ask("/metrics")
    assert "\nroomcast_producer_stored_total 1.0\n" in text
    assert '\nroomcast_rpc_calls_total{method="/logic.Logic/Link",status="' in text
    assert '\nroomcast_rpc_failures_total{reason="tls handshake"} ' in text


async def test_it_is_reached_by_the_name_it_announces_with_a_certificate_for_that_name_alone(
    tmp_path: Path,
) -> None:
    files = make_certificates(tmp_path, server=("localhost",))
    conn = client_tls(ca=files.ca, certificate=files.client, key=files.client_key)
    async with open_logic_server(tmp_path, files=files, listen="localhost:0") as logic:
        assert logic.announced.startswith("localhost:")
        async with open_logic(FakePeers([logic.announced]), replace(OPTIONS, tls=conn)) as links:
            await links.publish(message(1))


async def test_certificates_that_cannot_be_read_are_said_in_one_line_before_anything_is_opened(
    tmp_path: Path,
) -> None:
    files = make_certificates(tmp_path)
    files.client.unlink()
    theirs = {**files.settings(), "cert_file": str(files.client)}
    for section, changes in (
        ("tls", {"tls": ServerTls(**theirs, client_auth=True)}),
        ("nsq", {"nsq": Nsq(**theirs, tls=True)}),
    ):
        problem = (
            rf"^\[{section}\] certFile {files.client}, keyFile {files.server_key}: No such file or directory$"
        )
        with pytest.raises(SetupError, match=problem):
            await serve(msgspec.structs.replace(SETTINGS, **changes), Drain(1.0), LOG)


async def test_readiness_says_whether_the_queue_is_there(tmp_path: Path) -> None:
    async with open_logic_server(tmp_path) as logic:
        await logic.until_status(200)
        await logic.nsqd.end()
        await logic.until_status(503)
        assert json.loads((await logic.ask("/readyz"))[1])["reasons"] == {
            "queue": "not connected to any nsqd"
        }


async def test_drain_answers_what_was_asked_and_ends(tmp_path: Path) -> None:
    async with open_logic_server(tmp_path) as logic, open_logic(FakePeers([logic.address]), OPTIONS) as links:
        await links.publish(message(1000))
        await logic.nsqd.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_all, links, 30)
            await until(lambda: links.statistics().unanswered == 30)
            logic.drain.start()
            await until(lambda: not links.is_open)
            logic.nsqd.go_on()
        with trio.fail_after(5):
            await logic.ended.wait()
        assert links.statistics().lost == 0
        assert len(await logic.stored(31)) == 31


async def test_drain_does_not_wait_for_a_queue_beyond_its_deadline(tmp_path: Path) -> None:
    async with open_logic_server(tmp_path, drain_s=1.0) as logic:
        async with open_logic(FakePeers([logic.address]), OPTIONS) as links, trio.open_nursery() as nursery:
            await links.publish(message(1000))
            await logic.nsqd.pause()
            nursery.start_soon(links.publish, message(1))
            await until(lambda: links.statistics().unanswered == 1)
            logic.drain.start()
            with trio.fail_after(2):
                await logic.ended.wait()
            nursery.cancel_scope.cancel()
        logic.nsqd.go_on()


async def test_it_is_announced_after_listening_and_withdrawn_before_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    discovery = FakeDiscovery()
    monkeypatch.setattr(app, "open_discovery", discovery.open)
    async with open_logic_server(tmp_path) as logic:
        assert discovery.events == [("announced", "room_logic", logic.address)]
        logic.drain.start()
        with trio.fail_after(5):
            await logic.ended.wait()
    assert discovery.events[1:] == [("withdrawn while listening", "room_logic", logic.address)]


@pytest.mark.parametrize("after_s", [0.0, 0.1])
async def test_cancelled_service_leaves_nothing(tmp_path: Path, after_s: float) -> None:
    async with (
        open_logic_server(tmp_path) as logic,
        open_logic(FakePeers([logic.address]), OPTIONS) as links,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(publish_all, links, 30)
        await trio.sleep(after_s)
        nursery.cancel_scope.cancel()
    assert not logic.ended.is_set()


async def test_taken_port_is_said_in_one_line(nursery: trio.Nursery) -> None:
    listeners = await nursery.start(partial(trio.serve_tcp, trio.aclose_forcefully, 0, host="127.0.0.1"))
    address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    registration = Registration(service_name="room_logic", listen_address=address)
    settings = msgspec.structs.replace(SETTINGS, registration=registration)
    with pytest.raises(ExceptionGroup) as caught:
        await serve(settings, Drain(1.0), LOG)
    assert setup_problems(caught.value) == [f"gRPC port {address}: Address already in use"]
    nursery.cancel_scope.cancel()


async def test_it_does_not_start_without_a_secret() -> None:
    with pytest.raises(SetupError, match="no token secret"):
        await serve(msgspec.structs.replace(SETTINGS, token=TokenKey()), Drain(1.0), LOG)


def test_settings_say_how_to_reach_nsqd() -> None:
    options = nsq_options(Nsq(addresses=("a:1",), publish_timeout_s=3.0, auth_secret=Secret(b"hush")))
    assert (options.nsqd, options.publish_deadline_s, options.auth_secret) == (("a:1",), 3.0, "hush")
    assert nsq_options(Nsq()).auth_secret is None
