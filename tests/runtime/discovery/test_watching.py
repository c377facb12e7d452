from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from structlog.testing import CapturingLogger
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.discovery.gateway import IDLE_S, open_gateway
from runtime.discovery.tally import Tally
from runtime.discovery.watching import EtcdPeers
from tests.fakes.etcd import FakeEtcd, failure

A, B, C = "/room_conn/a:1", "/room_conn/b:1", "/room_conn/c:1"
GRACE_S = 8.0


class Log(CapturingLogger):
    def bind(self, **_: object) -> Log:
        return self

    def events(self) -> list[str]:
        return [str(call.args[0]) for call in self.calls]


@pytest.fixture
def etcd() -> FakeEtcd:
    etcd = FakeEtcd()
    etcd.put(A, "")
    etcd.put(B, "")
    return etcd


class Followed:
    def __init__(self, peers: EtcdPeers, tally: Tally, log: Log) -> None:
        self.peers, self.tally, self.log = peers, tally, log


@asynccontextmanager
async def followed(etcd: FakeEtcd, *endpoints: str) -> AsyncIterator[Followed]:
    log, tally = Log(), Tally()
    async with (
        open_gateway(endpoints or ("one:1",), answer_s=1.0, transport=etcd) as gateway,
        trio.open_nursery() as nursery,
    ):
        peers = EtcdPeers(
            gateway,
            "room_conn",
            grace_s=GRACE_S,
            log=log,
            tally=tally,
        )
        nursery.start_soon(peers.run)
        nursery.start_soon(peers.run_clock)
        yield Followed(peers, tally, log)
        nursery.cancel_scope.cancel()


async def test_servers_are_listed_and_then_followed(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    etcd.put("/room_conn_other/x:1", "")
    async with followed(etcd) as this:
        await this.peers.listed.wait()
        assert this.peers.addresses == {"a:1", "b:1"}
        etcd.put(C, "")
        assert await this.peers.wait_changed(frozenset({"a:1", "b:1"})) == {"a:1", "b:1", "c:1"}
        etcd.delete(A)
        assert await this.peers.wait_changed(this.peers.addresses) == {"b:1", "c:1"}
        assert await this.peers.wait_changed(frozenset()) == {"b:1", "c:1"}
    assert (this.tally.lists, this.tally.changes) == (1, 2)
    assert this.log.events() == ["servers have changed"] * 3


def just_before_the_first_watch(etcd: FakeEtcd, act: Callable[[], None]) -> None:
    def on_ask(path: str) -> None:
        if path == "watch" and etcd.asked["watch"] == 1:
            act()

    etcd.on_ask = on_ask


async def test_what_happens_between_list_and_watch_is_not_missed(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    def act() -> None:
        etcd.put(C, "")
        etcd.delete(A)

    just_before_the_first_watch(etcd, act)
    async with followed(etcd) as this:
        await wait_all_tasks_blocked()
        assert this.peers.addresses == {"b:1", "c:1"}
    assert this.tally.lists == 1


async def test_etcd_that_is_wiped_between_list_and_watch_is_noticed(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    """The watch would begin at a revision that the new etcd will not reach for long."""

    def act() -> None:
        etcd.wipe()
        etcd.put(C, "")

    just_before_the_first_watch(etcd, act)
    async with followed(etcd) as this:
        await trio.sleep(1)
        assert this.peers.addresses == {"a:1", "b:1", "c:1"}
        await trio.sleep(GRACE_S)
        assert this.peers.addresses == {"c:1"}


async def test_change_that_is_none_wakes_nobody(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with followed(etcd) as this:
        await this.peers.listed.wait()
        with trio.move_on_after(5) as waiting:
            etcd.put(A, "again")
            await this.peers.wait_changed(this.peers.addresses)
        assert waiting.cancelled_caught


async def test_restarted_etcd_is_followed_on(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with followed(etcd) as this:
        await wait_all_tasks_blocked()
        etcd.stop()
        await trio.sleep(3)
        etcd.start()
        etcd.put(C, "")
        await trio.sleep(2.1)
        assert this.peers.addresses == {"a:1", "b:1", "c:1"}
        etcd.delete(C)
        assert await this.peers.wait_changed(this.peers.addresses) == {"a:1", "b:1"}
    assert this.log.events().count("etcd does not answer: known servers stay known") == 1
    assert this.log.events().count("etcd answers again") == 1


async def test_known_servers_stay_through_hours_without_etcd(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with followed(etcd) as this:
        await wait_all_tasks_blocked()
        etcd.stop()
        await trio.sleep(7200)
        assert this.peers.addresses == {"a:1", "b:1"}
        assert etcd.asked["kv/range"] < 7200  # at most one in a second


async def test_wiped_etcd_takes_nobody_away_who_announces_itself_again(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with followed(etcd) as this:
        await wait_all_tasks_blocked()
        etcd.stop()
        await trio.sleep(300)
        etcd.wipe()
        etcd.start()
        await trio.sleep(3)
        assert this.peers.addresses == {"a:1", "b:1"}
        assert this.peers.missing == 2
        etcd.put(A, "")
        await trio.sleep(3)
        assert this.peers.addresses == {"a:1", "b:1"}
        await trio.sleep(GRACE_S)
        assert this.peers.addresses == {"a:1"}
        assert this.peers.missing == 0


async def test_wiped_etcd_that_is_away_once_more_leaves_everybody_their_time(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with followed(etcd) as this:
        await wait_all_tasks_blocked()
        etcd.stop()
        etcd.wipe()
        etcd.start()
        await trio.sleep(2)
        assert this.peers.missing == 2
        etcd.stop()
        await trio.sleep(60)
        etcd.start()
        await trio.sleep(2.1)
        assert this.peers.addresses == {"a:1", "b:1"}
        etcd.put(A, "")
        await trio.sleep(GRACE_S)
        assert this.peers.addresses == {"a:1"}


async def test_connection_that_is_dead_without_saying_so_is_given_up(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with followed(etcd) as this:
        await wait_all_tasks_blocked()
        etcd.watchers.clear()
        etcd.put(C, "")
        await trio.sleep(IDLE_S - 1)
        assert this.peers.addresses == {"a:1", "b:1"}
        await trio.sleep(2)
        assert this.peers.addresses == {"a:1", "b:1", "c:1"}
    assert this.tally.lists == 2


async def test_compaction_between_list_and_watch_lists_again(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    def act() -> None:
        etcd.put(C, "")
        etcd.compact()

    just_before_the_first_watch(etcd, act)
    async with followed(etcd) as this:
        await trio.sleep(1)
        assert this.peers.addresses == {"a:1", "b:1", "c:1"}
    assert this.tally.lists == 2


async def test_watch_that_is_always_refused_is_asked_for_with_pauses_and_lists_go_on(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    etcd.odd["watch"] = [failure(14, "no", status=503) for _ in range(1000)]
    async with followed(etcd) as this:
        await this.peers.listed.wait()
        etcd.delete(A)
        await trio.sleep(100)
        assert this.peers.addresses == {"b:1"}
        assert 45 <= etcd.asked["watch"] <= 110


async def test_second_endpoint_is_asked_when_the_first_dies(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with followed(etcd, "one:1", "two:2") as this:
        await this.peers.listed.wait()
        await wait_all_tasks_blocked()
        etcd.dead = {"one:1"}
        etcd.break_streams()
        etcd.put(C, "")
        await trio.sleep(0.2)
        assert this.peers.addresses == {"a:1", "b:1", "c:1"}
    assert etcd.asked["two:2 watch"] == 1
    assert "etcd does not answer: known servers stay known" not in this.log.events()


async def test_unreadable_keys_are_skipped(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    etcd.put("/room_conn/nonsense", "{}")
    async with followed(etcd) as this:
        await this.peers.listed.wait()
        assert this.peers.addresses == {"a:1", "b:1"}
        assert this.tally.skipped == {"value": 2, "key": 1}


async def test_cancelled_wait_loses_nothing(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with followed(etcd) as this:
        await this.peers.listed.wait()
        seen = this.peers.addresses
        with trio.move_on_after(1) as waiting:
            await this.peers.wait_changed(seen)
        assert waiting.cancelled_caught
        etcd.delete(A)
        await wait_all_tasks_blocked()
        assert await this.peers.wait_changed(seen) == {"b:1"}
