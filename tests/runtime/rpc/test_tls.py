"""TLS and mTLS between a channel and a server."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio

from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.limits import RpcLimits
from runtime.rpc.tls import client_tls, dialing_tls, server_tls, serving_tls
from runtime.sections import ClientTls, PeerTls, ServerTls
from tests.runtime.rpc.certificates import Certificates, make_certificates
from tests.runtime.rpc.probe import LIMITS, Probe, serving, until
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Ask

pytestmark = pytest.mark.usefixtures("no_leaks")

QUICK = RpcLimits(ready_s=0.3, connect_s=0.3)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def refused(address: str, tls: ssl.SSLContext | None, server_name: str | None = None) -> None:
    async with open_channel(address, tls=tls, server_name=server_name, limits=QUICK) as channel:
        with pytest.raises(RpcError) as caught:
            await ProbeStub(channel).Echo(Ask())
        assert caught.value.status is Status.UNAVAILABLE


async def test_calls_and_large_messages_pass_through_tls(certificates: Certificates) -> None:
    tls = server_tls(certificates.server, certificates.server_key)
    async with (
        serving([Probe()], tls=tls) as server,
        open_channel(server.addresses[0], tls=client_tls(ca=certificates.ca), limits=LIMITS) as channel,
    ):
        answer = await ProbeStub(channel).Echo(Ask(id=1, body=b"x" * 3_000_000))
        assert len(answer.body) == 3_000_000
        with trio.move_on_after(0.05):
            await ProbeStub(channel).Echo(Ask(sleep_s=30))
        assert (await ProbeStub(channel).Echo(Ask(id=2))).id == 2


async def test_certificate_of_another_name_or_authority_is_refused(
    certificates: Certificates, tmp_path: Path
) -> None:
    tls = server_tls(certificates.server, certificates.server_key)
    async with serving([Probe()], tls=tls) as server:
        address = server.addresses[0]
        await refused(address, client_tls(ca=certificates.ca), server_name="other.example")
        await refused(address, client_tls(ca=make_certificates(tmp_path).ca))
        async with open_channel(
            address, tls=client_tls(ca=certificates.ca), server_name="localhost", limits=LIMITS
        ) as channel:
            assert (await ProbeStub(channel).Echo(Ask(id=1))).id == 1


async def test_server_that_asks_for_certificates_takes_only_clients_that_have_one(
    certificates: Certificates,
) -> None:
    tls = server_tls(certificates.server, certificates.server_key, client_ca=certificates.ca)
    async with serving([Probe()], tls=tls) as server:
        address = server.addresses[0]
        await refused(address, client_tls(ca=certificates.ca))
        own = client_tls(ca=certificates.ca, certificate=certificates.client, key=certificates.client_key)
        async with open_channel(address, tls=own, limits=LIMITS) as channel:
            assert (await ProbeStub(channel).Echo(Ask(id=1))).id == 1


async def test_cleartext_and_tls_do_not_meet(certificates: Certificates) -> None:
    async with serving([Probe()], limits=QUICK) as server:
        await refused(server.addresses[0], client_tls(ca=certificates.ca))
    tls = server_tls(certificates.server, certificates.server_key)
    async with serving([Probe()], tls=tls, limits=QUICK) as server:
        await refused(server.addresses[0], None)


async def test_handshake_that_stalls_is_ended(certificates: Certificates) -> None:
    tls = server_tls(certificates.server, certificates.server_key)
    async with serving([Probe()], tls=tls, limits=RpcLimits(connect_s=0.1)) as server:
        host, port = server.addresses[0].split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            with trio.fail_after(10):
                assert await stream.receive_some() == b""
        await until(lambda: server.statistics().failures == {"tls handshake timeout": 1})


async def test_settings_say_who_serves_and_dials_with_what(certificates: Certificates) -> None:
    ca, chain, key = (str(each) for each in (certificates.ca, certificates.server, certificates.server_key))
    logic = ServerTls(cert_file=chain, key_file=key, ca_file=ca, client_auth=True)
    conn = PeerTls(cert_file=chain, key_file=key, ca_file=ca)
    async with serving([Probe()], tls=serving_tls(logic)) as server:
        await refused(server.addresses[0], dialing_tls(ClientTls(ca_file=ca)))
        async with open_channel(server.addresses[0], tls=dialing_tls(conn), limits=LIMITS) as channel:
            assert (await ProbeStub(channel).Echo(Ask(id=1))).id == 1
    async with (
        serving([Probe()], tls=serving_tls(conn)) as server,
        open_channel(server.addresses[0], tls=dialing_tls(ClientTls(ca_file=ca)), limits=LIMITS) as channel,
    ):
        assert (await ProbeStub(channel).Echo(Ask(id=1))).id == 1


def test_without_settings_it_is_cleartext() -> None:
    assert serving_tls(ServerTls()) is None
    assert serving_tls(PeerTls()) is None
    assert dialing_tls(PeerTls()) is None
    assert dialing_tls(ClientTls()) is None
