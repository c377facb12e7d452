"""Discovery in a real etcd, through all that may happen to it.

How soon, and how often, is said by test_announcing.py and test_watching.py in virtual time; here a loaded
machine may let a lease run out on the way.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from runtime.discovery import Discovery, Peers
from runtime.discovery.etcd import EtcdDiscovery, open_etcd_discovery
from runtime.metrics import Metrics
from runtime.secret import Secret
from runtime.sections import Etcd as Settings
from tests.etcd import Etcd, base64_of, start_etcd
from tests.ports import free_port
from tests.runtime.rpc.certificates import make_certificates

pytestmark = pytest.mark.usefixtures("no_leaks")

SERVICE = "room_conn"
ADDRESS, OTHER = "127.0.0.1:6000", "127.0.0.1:6010"
KEY = f"/{SERVICE}/{ADDRESS}"
VALUE = '{"name":"room_conn","addr":"127.0.0.1:6000","version":"","weight":0}'
# The shortest lease that the etcd of these tests gives, where one is waited for; and others.
SHORTEST_S, SHORT_S, LONG_S = 1.0, 3.0, 30.0
SOON_S = 20.0


@asynccontextmanager
async def discovery_at(*endpoints: str, ttl_s: float) -> AsyncIterator[EtcdDiscovery]:
    settings = Settings(addrs=endpoints)
    async with open_etcd_discovery(settings, structlog.get_logger(), ttl_s=ttl_s) as discovery:
        with trio.fail_after(3 * SOON_S):
            yield discovery


async def until_known(peers: Peers, *addresses: str) -> None:
    with trio.fail_after(SOON_S):
        while peers.addresses != set(addresses):
            await peers.wait_changed(peers.addresses)


async def until_told(etcd: Etcd, keys: set[str]) -> None:
    """Wait until etcd has just these keys."""
    with trio.fail_after(SOON_S):
        while set(await etcd.keys()) != keys:  # noqa: ASYNC110  what another process has
            await trio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(SOON_S):
        while not condition():  # noqa: ASYNC110  a number in a record: there is nothing to wait for
            await trio.sleep(0.01)


async def test_go_systems_key_is_there_from_entry_to_exit(etcd: Etcd) -> None:
    async with discovery_at(etcd.address, ttl_s=LONG_S) as opened:
        discovery: Discovery = opened
        async with discovery.watch(SERVICE) as peers:
            assert peers.addresses == frozenset()
            async with discovery.announce(SERVICE, ADDRESS):
                assert await etcd.keys() == {KEY: VALUE}
                await until_known(peers, ADDRESS)
                assert opened.statistics().announced == {(SERVICE, ADDRESS): True}
                metrics = Metrics()
                metrics.register("discovery", opened.statistics, gauges=("announced",))
                shown = f'roomcast_discovery_announced{{address="{ADDRESS}",service="{SERVICE}"}} 1.0'
                assert shown in metrics.render().decode()
                assert opened.statistics().peers == {SERVICE: 1}
            assert await etcd.keys() == {}
            assert (await etcd.ask("lease/leases", {})).get("leases", []) == []
            await until_known(peers)
            await etcd.put(f"/{SERVICE}/{OTHER}", "not JSON")
            await until_known(peers, OTHER)
            assert opened.statistics().skipped == {"value": 1}


async def test_cancelled_service_withdraws_as_well(etcd: Etcd) -> None:
    async with discovery_at(etcd.address, ttl_s=LONG_S) as discovery:
        with trio.CancelScope() as scope:
            async with discovery.announce(SERVICE, ADDRESS):
                scope.cancel()
                await trio.sleep_forever()
        assert await etcd.keys() == {}


async def test_killed_service_is_gone_with_its_lease(etcd: Etcd) -> None:
    granted = await etcd.ask("lease/grant", {"TTL": int(SHORTEST_S)})
    async with discovery_at(etcd.address, ttl_s=SHORTEST_S) as discovery, discovery.watch(SERVICE) as peers:
        await etcd.put(KEY, VALUE, int(granted["ID"]))
        await until_known(peers, ADDRESS)
        await until_known(peers)


async def test_restart_with_its_data_is_hardly_noticed(etcd: Etcd) -> None:
    async with (
        discovery_at(etcd.address, ttl_s=SHORTEST_S) as discovery,
        discovery.watch(SERVICE) as peers,
        discovery.announce(SERVICE, ADDRESS),
    ):
        await until_known(peers, ADDRESS)
        await etcd.end(signal.SIGTERM)
        # Gone for longer than the lease; nobody to ask is no reason to forget anybody.
        with trio.move_on_after(1.5 * SHORTEST_S) as away:
            await peers.wait_changed(frozenset({ADDRESS}))
        assert away.cancelled_caught
        await etcd.start()
        await etcd.put(f"/{SERVICE}/{OTHER}", "")
        await until_known(peers, ADDRESS, OTHER)
        await until(lambda: discovery.statistics().announced[SERVICE, ADDRESS])
        assert KEY in await etcd.keys()


async def test_wiped_etcd_is_told_anew_and_nobody_was_away(etcd: Etcd) -> None:
    async with (
        discovery_at(etcd.address, ttl_s=SHORTEST_S) as discovery,
        discovery.watch(SERVICE) as peers,
        discovery.announce(SERVICE, ADDRESS),
    ):
        # So that the watch would otherwise begin far beyond the new etcd's revision.
        for _ in range(20):
            await etcd.put("/elsewhere", "x")
        await etcd.put(f"/{SERVICE}/{OTHER}", "")
        await until_known(peers, ADDRESS, OTHER)
        changes: list[frozenset[str]] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def note() -> None:
                while True:
                    changes.append(await peers.wait_changed(peers.addresses))

            await etcd.restart(wiped=True)
            await until_told(etcd, {KEY})
            await until(lambda: discovery.statistics().missing == 1)
            await etcd.put(f"/{SERVICE}/{OTHER}", "")
            await until(lambda: discovery.statistics().missing == 0)
            nursery.cancel_scope.cancel()
        assert changes == []
        await etcd.delete(f"/{SERVICE}/{OTHER}")
        await until_known(peers, ADDRESS)
        assert discovery.statistics().announcements >= 2


async def test_key_that_was_deleted_is_put_again(etcd: Etcd) -> None:
    async with discovery_at(etcd.address, ttl_s=SHORT_S) as discovery, discovery.announce(SERVICE, ADDRESS):
        await etcd.delete(KEY)
        await until_told(etcd, {KEY})
        await until(lambda: discovery.statistics().restored == 1)


async def test_lease_that_was_revoked_is_replaced(etcd: Etcd) -> None:
    async with discovery_at(etcd.address, ttl_s=SHORT_S) as discovery, discovery.announce(SERVICE, ADDRESS):
        (lease,) = (await etcd.ask("lease/leases", {}))["leases"]
        await etcd.ask("lease/revoke", lease)
        await until_told(etcd, {KEY})
        await until(lambda: discovery.statistics().announcements == 2)


async def test_compacted_history_is_listed_again(etcd: Etcd) -> None:
    """Stopped while etcd compacts, a watch is behind what etcd still knows."""
    async with discovery_at(etcd.address, ttl_s=LONG_S) as discovery:
        revision = await etcd.put(KEY, VALUE)
        await etcd.ask("kv/compaction", {"revision": revision})
        gateway = discovery._gateway
        with pytest.raises(Exception, match=f"begins at revision {revision}"):
            async with gateway.open_watch(b"/room_conn/", revision - 2) as watch:
                await watch.receive()
        async with discovery.watch(SERVICE) as peers:
            assert peers.addresses == {ADDRESS}
            revision = await etcd.put(f"/{SERVICE}/{OTHER}", "")
            await etcd.ask("kv/compaction", {"revision": revision})
            await until_known(peers, ADDRESS, OTHER)


@pytest.mark.parametrize("first", ["dead", "silent"])
async def test_first_endpoint_of_several_may_be_dead(first: str, etcd: Etcd) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1] if first == "silent" else free_port()
    async with listener, discovery_at(f"127.0.0.1:{port}", etcd.address, ttl_s=SHORT_S) as discovery:
        async with discovery.watch(SERVICE) as peers, discovery.announce(SERVICE, ADDRESS):
            assert await etcd.keys() == {KEY: VALUE}
            await until_known(peers, ADDRESS)
        assert discovery.statistics().failures == {"connection" if first == "dead" else "deadline": 1}


async def test_frozen_etcd_does_not_hold_up_a_stop(etcd: Etcd) -> None:
    async with discovery_at(etcd.address, ttl_s=SHORTEST_S) as discovery:
        try:
            async with discovery.announce(SERVICE, ADDRESS):
                etcd.freeze()
                started = trio.current_time()
            assert trio.current_time() - started < 5.0
        finally:
            etcd.thaw()
        await until_told(etcd, set())


async def test_many_watches_and_announcements_share_one_gateway(etcd: Etcd) -> None:
    async with discovery_at(etcd.address, ttl_s=LONG_S) as discovery, trio.open_nursery() as nursery:
        ready = trio.Event()
        addresses = {f"127.0.0.1:{port}" for port in range(7000, 7020)}

        async def announce(address: str) -> None:
            async with discovery.announce(SERVICE, address):
                await ready.wait()

        for address in addresses:
            nursery.start_soon(announce, address)
        async with (
            discovery.watch(SERVICE) as conns,
            discovery.watch(SERVICE) as conns_again,
            discovery.watch("room_logic") as logics,
        ):
            await until_known(conns, *addresses)
            await until_known(conns_again, *addresses)
            assert logics.addresses == frozenset()
            ready.set()
            await until_known(conns)


async def turn_authentication_on(etcd: Etcd) -> None:
    """A root, and a user who may only touch what discovery needs."""
    await etcd.ask("auth/user/add", {"name": "root", "password": "pass"})
    await etcd.ask("auth/user/grant", {"user": "root", "role": "root"})
    await etcd.ask("auth/role/add", {"name": "discovery"})
    permission = {"permType": "READWRITE", "key": base64_of("/room_"), "range_end": base64_of("/room`")}
    await etcd.ask("auth/role/grant", {"name": "discovery", "perm": permission})
    await etcd.ask("auth/user/add", {"name": "roomcast", "password": "secret"})
    await etcd.ask("auth/user/grant", {"user": "roomcast", "role": "discovery"})
    await etcd.ask("auth/enable", {})


async def test_user_is_logged_in_and_again_when_etcd_forgets_it(etcd: Etcd) -> None:
    await turn_authentication_on(etcd)
    settings = Settings(addrs=(etcd.address,), user="roomcast", password=Secret(b"secret"))
    with trio.fail_after(3 * SOON_S):
        async with (
            open_etcd_discovery(settings, structlog.get_logger(), ttl_s=SHORTEST_S) as discovery,
            discovery.watch(SERVICE) as peers,
        ):
            async with discovery.announce(SERVICE, ADDRESS):
                await until_known(peers, ADDRESS)
                # Setting a password ends all logins with the old one, the same here.
                root = await etcd.ask("auth/authenticate", {"name": "root", "password": "pass"})
                change = {"name": "roomcast", "password": "secret"}
                await etcd.ask("auth/user/changepw", change, root["token"])
                await until(lambda: discovery.statistics().failures.get("token", 0) >= 1)
                await etcd.restart()
                await until(lambda: discovery.statistics().lists >= 2)
                await until(lambda: discovery.statistics().announced[SERVICE, ADDRESS])
                assert peers.addresses == {ADDRESS}
            await until_known(peers)


async def until_refused(settings: Settings, reason: str) -> None:
    """Watch until etcd has refused that, and again when it was asked again."""
    # No answer is late: what is counted is what etcd says.
    async with (
        open_etcd_discovery(settings, structlog.get_logger(), ttl_s=LONG_S) as discovery,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def watch() -> None:
            async with discovery.watch(SERVICE):
                await trio.sleep_forever()

        await until(lambda: discovery.statistics().failures.get(reason, 0) >= 2)
        assert set(discovery.statistics().failures) == {reason}
        assert discovery.statistics().peers == {SERVICE: 0}
        nursery.cancel_scope.cancel()


async def test_wrong_password_is_told_and_tried_again(etcd: Etcd) -> None:
    await turn_authentication_on(etcd)
    settings = Settings(
        addrs=(etcd.address,), user="roomcast", password=Secret(b"wrong"), dial_timeout_s=SOON_S
    )
    with capture_logs() as logs:
        await until_refused(settings, "refused")
    (log,) = logs
    assert "authentication failed" in log["problem"]
    assert "wrong" not in str(logs)


async def test_watch_without_a_login_opens_with_nobody_known(etcd: Etcd) -> None:
    await turn_authentication_on(etcd)
    settings = Settings(addrs=(etcd.address,), dial_timeout_s=0.1)
    async with (
        open_etcd_discovery(settings, structlog.get_logger(), ttl_s=LONG_S) as discovery,
        discovery.watch(SERVICE) as peers,
    ):
        assert peers.addresses == frozenset()
        assert discovery.statistics().lists == 0


async def test_tls_with_certificates_on_both_sides(etcd_path: str, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    async with start_etcd(etcd_path, tmp_path, certificates=made) as etcd:
        known = Settings(
            addrs=(etcd.address,),
            ca_file=str(made.ca),
            cert_file=str(made.client),
            key_file=str(made.client_key),
        )
        async with open_etcd_discovery(known, structlog.get_logger(), ttl_s=LONG_S) as discovery:
            async with discovery.watch(SERVICE) as peers, discovery.announce(SERVICE, ADDRESS):
                await until_known(peers, ADDRESS)
                assert discovery.statistics().failures == {}
                await etcd.restart()
                await until(lambda: discovery.statistics().lists >= 2)
            # That it was away, and has no leader yet; nothing that TLS is to blame for.
            assert set(discovery.statistics().failures) <= {"connection", "unavailable"}
        await until_refused(
            Settings(addrs=(etcd.address,), ca_file=str(made.ca), dial_timeout_s=SOON_S), "connection"
        )
