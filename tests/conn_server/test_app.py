from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from conn_server.app import Serving, logic_options, serve
from conn_server.settings import ConnSettings, Rpc, Rules, Token, WebSocket
from logic_server.logic import make_logic
from logic_server.rpc import LinkOptions, LogicService
from logic_server.settings import LogicSettings
from runtime.failures import SetupError
from runtime.lifecycle import Drain
from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.limits import RpcLimits
from runtime.rpc.tls import client_tls, server_tls
from runtime.secret import Secret
from runtime.sections import Admin, PeerTls, Registration, Section
from schema.batch import pack
from schema.proto import conn_pb2 as pb
from schema.proto.conn_grpc import ConnStub
from schema.tokens import TokenAuthority
from tests.conn_server.serving import SUC, Peer, message, sign_in
from tests.http import http_client
from tests.logic_server.fakes import KEY, FakeProducer
from tests.runtime.rpc.certificates import Certificates, make_certificates
from tests.runtime.rpc.probe import serving

pytestmark = pytest.mark.usefixtures("no_leaks")

LOG = structlog.get_logger("test")
TOKENS = TokenAuthority(KEY)
LOOPBACK = "127.0.0.1:0"
QUICK = RpcLimits(ready_s=0.3, connect_s=0.3)


@dataclass
class Running:
    """A conn server that serves, and the queue behind the logic server it asks."""

    at: Serving
    announced: str
    producer: FakeProducer

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Peer]:
        host, port = self.at.clients.split(":")
        peer = Peer(await trio.open_tcp_stream(host, int(port)))
        try:
            await peer.upgrade()
            yield peer
        finally:
            await peer.aclose()

    async def until_ready(self) -> None:
        async with http_client() as client:
            with trio.fail_after(30):
                while (await client.get(f"http://{self.at.admin}/readyz")).status_code != 200:  # noqa: ASYNC110
                    await trio.sleep(0.02)


@asynccontextmanager
async def run_conn_server(
    producer: FakeProducer, *, listen: str = LOOPBACK, **sections: Section
) -> AsyncIterator[Running]:
    """Serve on loopback with these settings."""
    settings = msgspec.structs.replace(
        ConnSettings(),
        websocket=WebSocket(bind=LOOPBACK),
        registration=Registration(service_name="room_conn", listen_address=listen),
        admin=Admin(bind=LOOPBACK),
        **sections,
    )
    async with trio.open_nursery() as nursery:
        with capture_logs() as lines:
            at = await nursery.start(partial(serve, settings, Drain(5.0), LOG))
        (announced,) = [line["address"] for line in lines if "not announced" in line["event"]]
        yield Running(at, announced, producer)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_conn_server(files: Certificates) -> AsyncIterator[Running]:
    """Serve over mutual TLS, with a logic server that asks for certificates as well."""
    producer = FakeProducer()
    logic = make_logic(LogicSettings(), TOKENS, producer, unix_now=time.time)
    theirs = server_tls(files.server, files.server_key, client_ca=files.ca)
    async with (
        serving([LogicService(logic, LinkOptions())], tls=theirs) as server,
        run_conn_server(
            producer,
            rpc=Rpc(logic=server.addresses),
            tls=PeerTls(**files.settings(), client_auth=True, server_name="localhost"),
        ) as running,
    ):
        yield running


async def test_logic_servers_and_job_workers_are_spoken_to_through_mutual_tls(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    job = client_tls(ca=files.ca, certificate=files.client, key=files.client_key)
    push = pb.BroadcastRoomReq(roomID="lobby", data=pack([b"pushed"]))
    async with open_conn_server(files) as conn:
        await conn.until_ready()
        async with conn.connect() as peer:
            await peer.say(sign_in("lobby", TOKENS.issue("42", time.time())))
            assert await peer.hear() == SUC
            await peer.say(message("lobby", b"said", 1))
            assert pb.Reply.FromString(await peer.hear()).type == pb.ACK
            assert [each.data for each in conn.producer.messages] == [b"said"]
            async with open_channel(conn.at.rpc, tls=job) as channel:
                await ConnStub(channel).BroadcastRoom(push)
            assert pb.Reply.FromString(await peer.hear()).type == pb.MESSAGE
            for tls in (client_tls(ca=files.ca), None):
                async with open_channel(conn.at.rpc, tls=tls, limits=QUICK) as channel:
                    with pytest.raises(RpcError) as caught:
                        await ConnStub(channel).BroadcastRoom(push)
                    assert caught.value.status is Status.UNAVAILABLE
            await peer.say(pb.Req(type=pb.HEARTBEAT).SerializeToString())
            assert b"pong" in await peer.hear()  # nothing was pushed in between


async def test_tokens_can_be_checked_here_and_are_counted_without_any_logic_server() -> None:
    token = Token(verify="local", secret=Secret(KEY))
    rules, nobody = Rules(join=("lobby",)), Rpc(logic=())
    async with run_conn_server(FakeProducer(), token=token, rules=rules, rpc=nobody) as conn:
        async with conn.connect() as peer:
            await peer.say(sign_in("lobby", TOKENS.issue("42", time.time())))
            assert await peer.hear() == SUC
        async with conn.connect() as peer:
            await peer.say(sign_in("secret", TOKENS.issue("42", time.time())))
            assert await peer.hear() != SUC
        async with conn.connect() as peer:
            await peer.say(sign_in("lobby", "nonsense"))
            assert await peer.hear() != SUC
        async with http_client() as client:
            page = (await client.get(f"http://{conn.at.admin}/metrics")).text
    assert "roomcast_tokens_accepted_total 2.0" in page
    assert 'roomcast_tokens_refused_total{reason="segments"} 1.0' in page


async def test_it_is_reached_by_the_name_it_announces_with_a_certificate_for_that_name_alone(
    tmp_path: Path,
) -> None:
    files = make_certificates(tmp_path, server=("localhost",))
    tls = PeerTls(**files.settings(), client_auth=True)
    job = client_tls(ca=files.ca, certificate=files.client, key=files.client_key)
    async with run_conn_server(FakeProducer(), listen="localhost:0", rpc=Rpc(logic=()), tls=tls) as conn:
        assert conn.announced.startswith("localhost:")
        async with open_channel(conn.announced, tls=job) as channel:
            await ConnStub(channel).BroadcastRoom(pb.BroadcastRoomReq(roomID="lobby", data=pack([b"pushed"])))


async def test_certificates_that_cannot_be_read_are_said_in_one_line_before_anything_is_opened(
    tmp_path: Path,
) -> None:
    files = make_certificates(tmp_path)
    files.ca.write_text("nonsense")
    settings = msgspec.structs.replace(ConnSettings(), tls=PeerTls(**files.settings()))
    with pytest.raises(SetupError, match=rf"^\[tls\] caFile {files.ca}: NO_CERTIFICATE_OR_CRL_FOUND$"):
        await serve(settings, Drain(1.0), LOG)


def test_settings_say_how_logic_servers_are_asked(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    tls = PeerTls(**files.settings(), server_name="logic.example")
    settings = msgspec.structs.replace(ConnSettings(), rpc=Rpc(request_timeout_s=3.0), tls=tls)
    options = logic_options(settings)
    assert (options.call_s, options.server_name) == (3.0, "logic.example")
    assert options.tls is not None
    plain = logic_options(ConnSettings())
    assert (plain.tls, plain.server_name) == (None, None)
