from __future__ import annotations

from pathlib import Path

import pytest
import structlog
import trio

from runtime.discovery.choice import open_discovery
from runtime.discovery.etcd import EtcdDiscovery
from runtime.discovery.static import StaticDiscovery
from runtime.failures import SetupError
from runtime.sections import Etcd
from tests.ports import free_port
from tests.runtime.rpc.certificates import make_certificates

pytestmark = pytest.mark.usefixtures("no_leaks")

LOG = structlog.get_logger()


async def test_without_addresses_the_static_lists_hold() -> None:
    async with open_discovery(Etcd(), {"room_conn": ["a:1"]}, LOG, ttl_s=5.0) as discovery:
        assert isinstance(discovery, StaticDiscovery)
        async with discovery.watch("room_conn") as peers:
            assert peers.addresses == {"a:1"}


async def test_addresses_choose_etcd_and_a_service_starts_without_it() -> None:
    etcd = Etcd(addrs=(f"127.0.0.1:{free_port()}",), dial_timeout_s=0.1)
    with trio.fail_after(5):
        async with open_discovery(etcd, {"room_conn": ["a:1"]}, LOG, ttl_s=5.0) as discovery:
            assert isinstance(discovery, EtcdDiscovery)
            async with discovery.watch("room_conn") as peers, discovery.announce("room_conn", "b:1"):
                assert peers.addresses == frozenset()
                assert discovery.statistics().announced == {("room_conn", "b:1"): False}
                assert discovery.statistics().failures["connection"] >= 2


@pytest.mark.parametrize("bad", ["ca", "client"])
@pytest.mark.parametrize("content", [None, "nonsense"])
async def test_unreadable_certificates_are_the_operators_to_mend(
    bad: str, content: str | None, tmp_path: Path
) -> None:
    made = make_certificates(tmp_path)
    path = tmp_path / f"{bad}.pem"
    path.unlink()
    if content is not None:
        path.write_text(content)
    etcd = Etcd(
        addrs=("127.0.0.1:1",),
        ca_file=str(made.ca),
        cert_file=str(made.client),
        key_file=str(made.client_key),
    )
    with pytest.raises(SetupError, match=r"\[etcd\] (caFile|certFile)"):
        async with open_discovery(etcd, {}, LOG, ttl_s=5.0):
            pytest.fail("opened")
