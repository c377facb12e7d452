from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.discovery.answers import Change, EtcdError
from runtime.discovery.gateway import IDLE_S, Gateway, Login, backoff_s, open_gateway, prefix_end
from runtime.secret import Secret
from tests.fakes.etcd import FakeEtcd, failure, success

ENDPOINTS = ("one:1", "two:2", "three:3")
LOGIN = Login("root", Secret(b"right"))


@pytest.fixture
def etcd() -> FakeEtcd:
    return FakeEtcd()


@asynccontextmanager
async def open_fake(etcd: FakeEtcd, *endpoints: str, login: Login | None = None) -> AsyncIterator[Gateway]:
    async with open_gateway(endpoints or ("one:1",), answer_s=2.0, login=login, transport=etcd) as gateway:
        yield gateway


async def watch_on(gateway: Gateway, told: list[Change]) -> None:
    """Watch until the watch is lost."""
    async with gateway.open_watch(b"/s/", 0) as watch:
        while True:
            told += await watch.receive()


def test_prefix_ends_at_the_first_key_behind_it() -> None:
    assert prefix_end(b"/room_conn/") == b"/room_conn0"


def test_pauses_double_up_to_a_bound_and_are_shortened_by_chance() -> None:
    for failures, most in [(0, 0.1), (1, 0.2), (4, 1.6), (5, 2.0), (10_000, 2.0)]:
        assert most / 2 <= backoff_s(failures, 2.0) <= most
    assert backoff_s(5, 2.0) != backoff_s(5, 2.0)


async def test_leases_and_keys(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with open_fake(etcd) as gateway:
        lease, ttl = await gateway.grant(5)
        await gateway.put(b"/s/a", b"1", lease)
        assert not await gateway.put_if_missing(b"/s/a", b"2", lease)
        assert await gateway.put_if_missing(b"/s/b", b"2", lease)
        assert await gateway.list_prefix(b"/s/") == (3, {b"/s/a": b"1", b"/s/b": b"2"})
        assert await gateway.keep_alive(lease) == ttl == 5
        await gateway.revoke(lease)
        await gateway.revoke(lease)
        assert await gateway.list_prefix(b"/s/") == (5, {})
        assert await gateway.keep_alive(lease) == 0
        with pytest.raises(EtcdError, match="lease not found"):
            await gateway.put(b"/s/a", b"1", lease)


async def test_dead_endpoint_is_passed_over_once_and_for_all(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    etcd.dead = {"one:1"}
    async with open_fake(etcd, *ENDPOINTS) as gateway:
        for _ in range(3):
            await gateway.list_prefix(b"/s/")
        assert etcd.asked["one:1 kv/range"] == 1
        assert etcd.asked["two:2 kv/range"] == 3
        assert gateway.failures == {"connection": 1}


async def test_frozen_endpoint_costs_one_deadline(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    etcd.frozen = {"one:1", "two:2"}
    async with open_fake(etcd, *ENDPOINTS) as gateway:
        started = trio.current_time()
        await gateway.list_prefix(b"/s/")
        assert trio.current_time() - started == pytest.approx(4.0)
        await gateway.list_prefix(b"/s/")
        assert trio.current_time() - started == pytest.approx(4.0)
        assert gateway.failures == {"deadline": 2}


async def test_each_endpoint_is_asked_once_before_giving_up(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    etcd.stop()
    async with open_fake(etcd, *ENDPOINTS) as gateway:
        with pytest.raises(EtcdError, match=r"(one|two|three):\d: refused"):
            await gateway.list_prefix(b"/s/")
        assert [etcd.asked[f"{endpoint} kv/range"] for endpoint in ENDPOINTS] == [1, 1, 1]


async def test_many_that_fail_at_one_endpoint_pass_it_over_once(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    """Each failure moving on by one would have led the fourth caller back to the dead endpoint."""
    etcd.dead = {"one:1"}
    async with open_fake(etcd, "one:1", "two:2") as gateway, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(gateway.list_prefix, b"/s/")
    assert etcd.asked["two:2 kv/range"] == 4


@pytest.mark.parametrize(
    "odd",
    [
        httpx2.Response(200, content=b"<html>a proxy</html>"),
        httpx2.Response(502, content=b"bad gateway"),
        httpx2.Response(404, content=b"404 page not found"),
        httpx2.Response(301, headers={"Location": "http://elsewhere"}),
        failure(14, "etcdserver: no leader"),
    ],
)
async def test_endpoint_that_answers_oddly_is_passed_over(etcd: FakeEtcd, odd: httpx2.Response) -> None:
    etcd.odd["kv/range"] = [odd]
    async with open_fake(etcd, *ENDPOINTS) as gateway:
        assert await gateway.list_prefix(b"/s/") == (1, {})
        assert gateway.failures.total() == 1
    assert etcd.asked["two:2 kv/range"] == 1


async def test_answer_without_an_end_is_given_up(
    etcd: FakeEtcd, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flood(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await trio.lowlevel.checkpoint()
                yield bytes(100)

    class Drought(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            await trio.sleep_forever()

    class Break(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            raise httpx2.RemoteProtocolError("")

    monkeypatch.setattr("runtime.discovery.gateway._MAX_ANSWER_BYTES", 1000)
    streams = Flood(), Drought(), Break()
    async with open_fake(etcd) as gateway:
        for stream, message in zip(
            streams, ["over 1000 bytes", "within 2.0 s", "RemoteProtocol"], strict=True
        ):
            etcd.odd["kv/range"] = [httpx2.Response(200, stream=stream)]
            with pytest.raises(EtcdError, match=message):
                await gateway.list_prefix(b"/s/")
        etcd.odd["watch"] = [httpx2.Response(200, stream=Flood())]
        with pytest.raises(EtcdError, match="a line without an end"):
            async with gateway.open_watch(b"/s/", 0) as watch:
                await watch.receive()
        assert gateway.failures == {"garbage": 2, "deadline": 1, "connection": 1}


async def test_what_the_cluster_has_decided_is_not_asked_of_others(etcd: FakeEtcd) -> None:
    etcd.odd["kv/range"] = [failure(7, "etcdserver: permission denied")]
    async with open_fake(etcd, *ENDPOINTS) as gateway:
        with pytest.raises(EtcdError, match="permission denied"):
            await gateway.list_prefix(b"/s/")
        assert gateway.failures == {"refused": 1}
    assert etcd.asked["kv/range"] == 1


async def test_token_is_asked_for_once_and_again_when_it_is_forgotten(etcd: FakeEtcd) -> None:
    etcd.password = "right"
    async with open_fake(etcd, login=LOGIN) as gateway:
        await gateway.list_prefix(b"/s/")
        await gateway.list_prefix(b"/s/")
        assert etcd.asked["auth/authenticate"] == 1
        etcd.tokens.clear()
        await gateway.list_prefix(b"/s/")
        assert etcd.asked["auth/authenticate"] == 2
        assert gateway.failures == {"token": 1}


async def test_wrong_password_and_missing_login_are_errors(etcd: FakeEtcd) -> None:
    etcd.password = "another"
    async with open_fake(etcd, login=LOGIN) as gateway:
        with pytest.raises(EtcdError, match="authentication failed"):
            await gateway.list_prefix(b"/s/")
    async with open_fake(etcd) as gateway:
        with pytest.raises(EtcdError, match="user name is empty"):
            await gateway.list_prefix(b"/s/")
    assert etcd.asked["auth/authenticate"] == 1


async def test_login_waits_until_authentication_is_turned_on(etcd: FakeEtcd) -> None:
    async with open_fake(etcd, login=LOGIN) as gateway:
        await gateway.list_prefix(b"/s/")
        await gateway.list_prefix(b"/s/")
        assert etcd.asked["auth/authenticate"] == 1
        etcd.password = "right"
        await gateway.list_prefix(b"/s/")
        assert etcd.asked["auth/authenticate"] == 2


async def test_token_that_stays_unknown_is_an_error(etcd: FakeEtcd) -> None:
    etcd.password = "right"
    async with open_fake(etcd, login=LOGIN) as gateway:
        etcd.odd["auth/authenticate"] = [success({"token": "x"}), success({"token": "y"})]
        with pytest.raises(EtcdError, match="invalid auth token"):
            await gateway.list_prefix(b"/s/")


async def test_watch_refreshes_the_token_next_time(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    etcd.password = "right"
    async with open_fake(etcd, login=LOGIN) as gateway:
        await gateway.list_prefix(b"/s/")
        etcd.tokens.clear()
        with pytest.raises(EtcdError, match="invalid auth token"):
            async with gateway.open_watch(b"/s/", 0):
                pytest.fail("opened")
        async with gateway.open_watch(b"/s/", 0) as watch:
            etcd.put("/s/a", "1")
            assert await watch.receive() == [Change(b"/s/a", b"1")]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_watch_tells_changes_however_they_are_cut(
    size: int, etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    etcd.cut = lambda line: [line[at : at + size] for at in range(0, len(line), size)]
    etcd.put("/s/a", "1")
    async with open_fake(etcd) as gateway:
        async with gateway.open_watch(b"/s/", 1) as watch:
            assert await watch.receive() == [Change(b"/s/a", b"1")]
            etcd.put("/other/a", "1")
            etcd.put("/s/b", "2")
            etcd.delete("/s/a")
            assert await watch.receive() == [Change(b"/s/b", b"2")]
            assert await watch.receive() == [Change(b"/s/a", None)]
        await wait_all_tasks_blocked()
        assert etcd.watchers == []


async def test_several_lines_in_one_piece_are_all_told(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    line = b'{"result":{"events":[{"kv":{"key":"YQ==","value":"MQ=="}}]}}\n'
    etcd.odd["watch"] = [httpx2.Response(200, content=line * 3)]
    told: list[Change] = []
    async with open_fake(etcd) as gateway:
        with pytest.raises(EtcdError, match="has ended"):
            await watch_on(gateway, told)
        assert gateway.failures == {"ended": 1}
    assert told == [Change(b"a", b"1")] * 3


async def test_silent_watch_is_given_up_without_blame(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with open_fake(etcd, "one:1", "two:2") as gateway:
        started = trio.current_time()
        with pytest.raises(EtcdError) as caught:
            async with gateway.open_watch(b"/s/", 1) as watch:
                await watch.receive()
        assert caught.value.reason == "idle"
        assert trio.current_time() - started == pytest.approx(IDLE_S)
        assert gateway.failures == {}
        await gateway.list_prefix(b"/s/")
    assert etcd.asked["one:1 kv/range"] == 1


async def test_watch_that_is_not_to_be_had_passes_its_endpoint_over(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    etcd.dead, etcd.frozen = {"one:1"}, {"two:2"}
    async with open_fake(etcd, *ENDPOINTS) as gateway:
        for message in ("refused", "no answer within"):
            with pytest.raises(EtcdError, match=message):
                async with gateway.open_watch(b"/s/", 0):
                    pytest.fail("opened")
        async with gateway.open_watch(b"/s/", 0):
            assert etcd.asked["three:3 watch"] == 1


async def test_broken_watch_and_compaction_end_it(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with open_fake(etcd) as gateway:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def break_it() -> None:
                await wait_all_tasks_blocked()
                etcd.break_streams()

            with pytest.raises(EtcdError, match="broken"):
                await watch_on(gateway, [])
        etcd.put("/s/a", "1")
        etcd.compact()
        with pytest.raises(EtcdError, match="begins at revision 2"):
            await watch_on(gateway, [])
        assert gateway.failures == {"connection": 1, "compacted": 1}


@pytest.mark.parametrize("host", ["etcd..example", "x" * 70, "a\x01b"])
async def test_endpoint_whose_host_is_none_is_passed_over(host: str) -> None:
    """The resolver's UnicodeError once ended the process."""
    async with open_gateway((f"{host}:1",), answer_s=2.0) as gateway:
        with pytest.raises(EtcdError, match="http://"):
            await gateway.list_prefix(b"/s/")
        assert gateway.failures == {"connection": 1}
