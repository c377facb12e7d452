from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from structlog.testing import CapturingLogger
from trio.testing import MockClock

from runtime.discovery.announcing import Announcement
from runtime.discovery.gateway import open_gateway
from runtime.discovery.tally import Tally
from tests.fakes.etcd import FakeEtcd, failure

KEY = "/room_conn/127.0.0.1:6000"
TTL_S = 5.0


class Run:
    """An announcement that runs, with what it counts and logs."""

    def __init__(self, announcement: Announcement, tally: Tally, log: Log) -> None:
        self.announcement, self.tally, self.log = announcement, tally, log
        self.running = trio.CancelScope()


class Log(CapturingLogger):
    def bind(self, **_: object) -> Log:
        return self

    def events(self) -> list[str]:
        return [str(call.args[0]) for call in self.calls]


@pytest.fixture
def etcd() -> FakeEtcd:
    return FakeEtcd()


@asynccontextmanager
async def announced(etcd: FakeEtcd) -> AsyncIterator[Run]:
    """Announce until the context is left; withdrawing is the test's."""
    log, tally = Log(), Tally()
    async with open_gateway(("one:1",), answer_s=1.0, transport=etcd) as gateway:
        announcement = Announcement(
            gateway,
            "room_conn",
            "127.0.0.1:6000",
            ttl_s=TTL_S,
            log=log,
            tally=tally,
        )
        run = Run(announcement, tally, log)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def keep() -> None:
                with run.running:
                    await announcement.run()

            yield run
            nursery.cancel_scope.cancel()


async def test_key_lives_as_long_as_it_is_announced(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with announced(etcd) as run:
        await run.announcement.announced.wait()
        for _ in range(30):
            assert etcd.keys() == {KEY}
            assert run.announcement.is_announced
            await trio.sleep(1)
        run.running.cancel()
        await run.announcement.withdraw()
        assert etcd.keys() == set()
        assert etcd.leases == {}
        assert not run.announcement.is_announced
    assert run.log.events() == ["announced", "withdrawn"]
    assert run.tally == Tally(announcements=1)


async def test_killed_process_is_forgotten_with_its_lease(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with announced(etcd) as run:
        await run.announcement.announced.wait()
    await trio.sleep(TTL_S - 0.1)
    assert etcd.keys() == {KEY}
    await trio.sleep(0.2)
    assert etcd.keys() == set()
    assert not run.announcement.is_announced


@pytest.mark.parametrize("away_s", [0.0, 60.0, 600.0])
async def test_wiped_etcd_is_told_again_at_once(
    away_s: float, etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with announced(etcd) as run:
        await run.announcement.announced.wait()
        etcd.stop()
        await trio.sleep(away_s)
        assert run.announcement.is_announced == (away_s == 0.0)
        etcd.wipe()
        etcd.start()
        await trio.sleep(TTL_S / 3 + 0.1)
        assert etcd.keys() == {KEY}
        assert run.announcement.is_announced
    assert run.tally.announcements == 2
    assert run.log.events().count("not announced for now") == bool(away_s)


async def test_key_that_somebody_has_deleted_is_put_again(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with announced(etcd) as run:
        await run.announcement.announced.wait()
        etcd.delete(KEY)
        await trio.sleep(TTL_S / 3 + 0.1)
        assert etcd.keys() == {KEY}
        assert (run.tally.announcements, run.tally.restored) == (1, 1)
        await trio.sleep(2 * TTL_S)
        assert etcd.keys() == {KEY}


async def test_predecessor_that_was_killed_does_not_take_the_key_with_it(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with announced(etcd) as killed:
        await killed.announcement.announced.wait()
    await trio.sleep(1)
    async with announced(etcd) as successor:
        await successor.announcement.announced.wait()
        for _ in range(10):
            await trio.sleep(1)
            assert etcd.keys() == {KEY}


async def test_successor_keeps_its_key_when_its_predecessor_withdraws_late(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    """A delete by key would have taken the successor out of service."""
    async with announced(etcd) as predecessor:
        await predecessor.announcement.announced.wait()
        predecessor.running.cancel()
        async with announced(etcd) as successor:
            await successor.announcement.announced.wait()
            await predecessor.announcement.withdraw()
            assert etcd.keys() == {KEY}


async def test_lease_that_is_lost_between_its_grant_and_the_key_is_replaced(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    etcd.odd["kv/put"] = [failure(5, "etcdserver: requested lease not found")]
    async with announced(etcd) as run:
        etcd.odd["lease/keepalive"] = []
        await run.announcement.announced.wait()
        assert etcd.keys() == {KEY}
        assert trio.current_time() < 1.0


async def test_service_that_starts_before_etcd_is_announced_when_it_comes(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    etcd.stop()
    async with announced(etcd) as run:
        await trio.sleep(100)
        assert not run.announcement.announced.is_set()
        assert 60 <= etcd.asked["lease/grant"] <= 130  # every 0.8 to 1.7 s
        etcd.start()
        await trio.sleep(TTL_S / 3)
        assert etcd.keys() == {KEY}
    assert run.log.events() == ["not announced for now", "announced"]


async def test_withdrawing_ends_on_time_and_says_so_when_etcd_does_not_answer(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with announced(etcd) as run:
        await run.announcement.announced.wait()
        run.running.cancel()
        etcd.frozen = None
        started = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            await run.announcement.withdraw()
        assert trio.current_time() - started <= 2.0
        assert run.log.events()[-1] == "not withdrawn: it ends with its lease"
    await trio.sleep(TTL_S)
    assert etcd.keys() == set()


async def test_withdrawing_works_although_cancelled(etcd: FakeEtcd, autojump_clock: MockClock) -> None:
    async with announced(etcd) as run:
        await run.announcement.announced.wait()
        run.running.cancel()
        with trio.CancelScope() as scope:
            scope.cancel()
            await run.announcement.withdraw()
        assert etcd.keys() == set()


async def test_nothing_is_withdrawn_that_was_never_announced(
    etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    etcd.stop()
    async with announced(etcd) as run:
        await trio.sleep(1)
        run.running.cancel()
        await run.announcement.withdraw()
        assert etcd.asked["lease/revoke"] == 0


@pytest.mark.parametrize("moment", range(8))
async def test_cancelled_at_any_moment_it_leaves_no_key_behind(
    moment: int, etcd: FakeEtcd, autojump_clock: MockClock
) -> None:
    async with announced(etcd) as run:
        for _ in range(moment):
            await trio.lowlevel.checkpoint()
        run.running.cancel()
        await run.announcement.withdraw()
    await trio.sleep(2 * TTL_S)
    assert etcd.keys() == set()
