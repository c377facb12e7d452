"""Choice among addresses that come, go and die."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
from hypothesis import given, strategies as st

from runtime.rpc.balance import Balancer, open_balancer, ranked
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.limits import RpcLimits
from runtime.rpc.server import RpcServer, open_listeners, serve_rpc
from tests.runtime.rpc.probe import ADDRESS, LIMITS, Probe, serving, until
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Ask

pytestmark = pytest.mark.usefixtures("no_leaks")


@asynccontextmanager
async def three_servers() -> AsyncIterator[dict[str, RpcServer]]:
    """Serve three probes whose answers name them; yield the servers by that name."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(serving([Probe(name)])) for name in "abc"}


async def who(balancer: Balancer, key: str | None = None) -> str:
    source = balancer if key is None else balancer.keyed(key)
    return (await ProbeStub(source).Echo(Ask(), timeout=5)).body.decode()


def addresses_of(servers: dict[str, RpcServer]) -> list[str]:
    return [server.addresses[0] for server in servers.values()]


@asynccontextmanager
async def balancing(servers: dict[str, RpcServer]) -> AsyncIterator[Balancer]:
    """Open a balancer over all of `servers`, and wait until they stand."""
    async with open_balancer(addresses_of(servers), limits=LIMITS) as balancer:
        await until(lambda: len(balancer.ready) == len(servers))
        yield balancer


async def test_calls_go_to_all_by_turn() -> None:
    async with three_servers() as servers, balancing(servers) as balancer:
        assert Counter([await who(balancer) for _ in range(30)]) == {"a": 10, "b": 10, "c": 10}
        assert balancer.statistics().calls.calls == {("/probe.Probe/Echo", "OK"): 30}
        assert len(balancer.statistics().channels) == 3


async def test_key_stays_with_its_server_and_moves_only_while_that_is_away() -> None:
    async with three_servers() as servers, balancing(servers) as balancer:
        before = {key: {await who(balancer, key) for _ in range(3)} for key in map(str, range(12))}
        assert all(len(names) == 1 for names in before.values())
        assert len({name for names in before.values() for name in names}) > 1
        servers["a"].drain(grace_s=0)
        await until(lambda: len(balancer.ready) == 2)
        after = {key: await who(balancer, key) for key in before}
        assert all(after[key] in names or "a" in names for key, names in before.items())
        assert "a" not in after.values()


async def test_dead_server_is_skipped_and_taken_back_when_it_returns() -> None:
    async with (
        trio.open_nursery() as nursery,
        three_servers() as servers,
        open_balancer(addresses_of(servers), limits=LIMITS) as balancer,
    ):
        gone = servers["b"].addresses[0]
        servers["b"].drain(grace_s=0)
        await until(lambda: gone not in balancer.ready)
        assert {await who(balancer) for _ in range(10)} == {"a", "c"}
        again: RpcServer = await nursery.start(partial(serve_rpc, [Probe("b2")], gone, limits=LIMITS))
        await until(lambda: gone in balancer.ready)
        assert {await who(balancer) for _ in range(10)} == {"a", "b2", "c"}
        again.drain(grace_s=0)


async def test_nobody_known_and_nobody_there_are_unavailable_after_a_bounded_wait() -> None:
    limits = RpcLimits(ready_s=0.1, backoff_s=0.02)
    async with open_balancer(limits=limits) as balancer:
        for addresses in ([], ["127.0.0.1:1", "127.0.0.1:2"]):
            balancer.set_addresses(addresses)
            for key in (None, "room"):
                began = trio.current_time()
                with pytest.raises(RpcError) as caught:
                    await who(balancer, key)
                assert caught.value.status is Status.UNAVAILABLE
                assert all(address in caught.value.text for address in addresses)
                assert trio.current_time() - began < 5


async def test_key_does_not_wait_for_ever_for_a_server_that_is_silent() -> None:
    """It accepts and says nothing: neither standing nor failing, until the handshake is over."""

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    limits = RpcLimits(ready_s=0.4, connect_s=30)
    async with serving([Probe("x")]) as server, trio.open_nursery() as nursery:
        listeners = await open_listeners(ADDRESS)
        nursery.start_soon(trio.serve_listeners, silent, listeners)
        mute = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with open_balancer([mute, *server.addresses], limits=limits) as balancer:
            keys = [key for key in map(str, range(50)) if ranked(key, balancer.addresses)[0] == mute][:3]
            assert {await who(balancer, key) for key in keys} == {"x"}
        nursery.cancel_scope.cancel()


async def test_call_waits_for_an_address_that_discovery_finds_just_in_time() -> None:
    async with serving([Probe("x")]) as server, open_balancer(limits=LIMITS) as balancer:
        async with trio.open_nursery() as nursery:
            names = []

            async def call(key: str | None) -> None:
                names.append(await who(balancer, key))

            nursery.start_soon(call, None)
            nursery.start_soon(call, "room")
            await trio.testing.wait_all_tasks_blocked()
            balancer.set_addresses(server.addresses)
        assert names == ["x", "x"]
        with trio.fail_after(10):
            await balancer.wait_ready()


async def test_address_that_is_withdrawn_keeps_its_calls_and_gets_no_new_ones() -> None:
    """Discovery may lose everything (a wiped etcd); a stream that lives is never ended by it."""
    async with (
        three_servers() as servers,
        open_balancer(addresses_of(servers)[:1], limits=LIMITS) as balancer,
    ):
        async with ProbeStub(balancer).Chat.open() as stream:
            await stream.send_message(Ask(id=1))
            await stream.recv_message()
            balancer.set_addresses(addresses_of(servers)[1:])
            assert balancer.addresses == tuple(addresses_of(servers)[1:])
            assert {await who(balancer) for _ in range(6)} <= {"b", "c"}
            await stream.send_message(Ask(id=2))
            answer = await stream.recv_message()
            assert answer is not None
            assert answer.id == 2
            assert servers["a"].statistics().connections == 1
        await until(lambda: servers["a"].statistics().connections == 0)


async def test_address_that_is_none_changes_nothing() -> None:
    async with open_balancer(["127.0.0.1:9"], limits=LIMITS) as balancer:
        with pytest.raises(ValueError, match="nonsense"):
            balancer.set_addresses(["127.0.0.1:1", "nonsense"])
        assert balancer.addresses == ("127.0.0.1:9",)


async def test_error_in_the_balancers_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with open_balancer():
            raise KeyError("the caller's own")


@given(st.text(max_size=20), st.sets(st.text(min_size=1, max_size=20), min_size=2, max_size=8))
def test_ranking_of_the_others_does_not_change_when_one_goes(key: str, addresses: set[str]) -> None:
    order = ranked(key, addresses)
    assert sorted(order) == sorted(addresses)
    assert ranked(key, reversed(order)) == order
    for gone in addresses:
        assert ranked(key, addresses - {gone}) == [address for address in order if address != gone]
