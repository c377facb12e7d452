"""The services as separate processes, from the Go system's example files, with real parts where there are.

What is asserted holds with the real nsqd and with its stand-in.  Members are of both client generations, and
the first of each room at each conn server talks all the time (crowd.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from schema.closing import CloseCode
from schema.message import Level
from tests.integration.cluster import Settings, open_cluster
from tests.integration.crowd import Crowd, Talk, open_crowd

pytestmark = pytest.mark.usefixtures("no_leaks")

LONGEST_SILENCE_S = 2.0
LISTEN_ON_S = 2.5
LEASE_S = 2
LEASE_CHECK_S = 2.0  # etcd looks for leases that have run out twice a second
DRAIN_S = 15.0


async def judge(crowd: Crowd) -> None:
    """End the talk and see that everybody got everything that was accepted, once, in one order."""
    await crowd.hush()
    assert not await crowd.settle()
    ledger = crowd.ledger
    print(f"said {len(ledger.said)}, accepted {len(ledger.accepted)}")
    assert ledger.repeated() == 0
    assert ledger.disorder() == 0


async def see_it_resume(crowd: Crowd, what: str) -> None:
    """See that nobody waits long for news, from now on."""
    began = crowd.now
    resumed_s = await crowd.wait_resumed()
    await trio.sleep(LISTEN_ON_S)
    silence_s = crowd.ledger.silence(began, crowd.now)
    print(f"{what} is back: news after {resumed_s:.2f} s, longest silence {silence_s:.2f} s")
    assert silence_s < LONGEST_SILENCE_S


async def test_two_hundred_members_in_three_rooms_hear_everything_once_and_in_one_order(
    etcd_path: str, tmp_path: Path
) -> None:
    async with (
        open_cluster(etcd_path, tmp_path) as cluster,
        open_crowd(cluster, Talk(members=200, rooms=3)) as crowd,
    ):
        await trio.sleep(3)
        await judge(crowd)
        assert {said.outcome for said in crowd.ledger.said} == {"accepted"}
        assert len(crowd.ledger.sessions) == 200


async def test_queue_and_registry_go_and_come_back_under_load_and_nothing_is_lost(
    etcd_path: str, tmp_path: Path
) -> None:
    async with (
        open_cluster(etcd_path, tmp_path, logics=1) as cluster,
        open_crowd(cluster, Talk()) as crowd,
    ):
        await cluster.nsqd.end()
        await trio.sleep(1)
        await cluster.nsqd.start()
        await see_it_resume(crowd, "nsqd")
        began = crowd.now
        await cluster.etcd.end()
        cluster.etcd.wipe()
        await trio.sleep(1)
        await cluster.etcd.start()
        with trio.fail_after(30):
            await cluster.wait_keys(*cluster.services, present=True)
        # Nobody noticed: those who have found each other go on without it.
        assert crowd.ledger.silence(began, crowd.now) < LONGEST_SILENCE_S
        await see_it_resume(crowd, "etcd")
        assert len(crowd.ledger.sessions) == Talk().members
        await judge(crowd)


async def test_conn_servers_restart_in_turn_and_those_at_the_other_one_miss_nothing(
    etcd_path: str, tmp_path: Path
) -> None:
    async with (
        open_cluster(etcd_path, tmp_path, logics=1) as cluster,
        open_crowd(cluster, Talk()) as crowd,
    ):
        for restarted, other in ((0, 1), (1, 0)):
            throughout = [session for session in crowd.ledger.present() if session.server == other]
            assert await cluster.conns[restarted].end() == 0
            await cluster.conns[restarted].start()
            await crowd.wait_in()
            assert not await crowd.settle()
            assert all(session.left_at is None for session in throughout)
        await judge(crowd)


async def test_conn_server_is_gone_from_etcd_before_it_sends_its_clients_away(
    etcd_path: str, tmp_path: Path
) -> None:
    async with open_cluster(etcd_path, tmp_path, conns=1, logics=1, jobs=0) as cluster:
        conn = cluster.conns[0]
        async with (
            cluster.join("1", "lobby") as client,
            cluster.join("2", "lobby", version=0) as old,
            trio.open_nursery() as nursery,
        ):
            cluster.etcd.freeze()
            nursery.start_soon(conn.end)
            with trio.move_on_after(1):  # of the 2 s that it has patience with etcd
                await client.wait_closed()
            assert client.closed is None
            assert old.closed is None
            cluster.etcd.thaw()
            with trio.fail_after(DRAIN_S):
                closed = await client.wait_closed()
                assert (await old.wait_closed()).code == CloseCode.GOING_AWAY
            assert conn.key not in await cluster.etcd.keys()
            assert closed.code == CloseCode.GOING_AWAY
            assert "retry_after_ms" in closed.reason
        assert not conn.is_running


async def test_members_of_a_draining_conn_server_hear_all_that_is_said_until_they_are_sent_away(
    etcd_path: str, tmp_path: Path
) -> None:
    steps: Settings = {
        "conn": {"ROOMCAST_DRAIN__STEPCONNECTIONS": "1", "ROOMCAST_DRAIN__STEPINTERVAL": "1s"},
    }
    async with open_cluster(etcd_path, tmp_path, logics=1, settings=steps) as cluster:
        draining = cluster.conns[0]
        async with (
            cluster.join("1", "lobby", server=0) as first,
            cluster.join("2", "lobby", server=0) as second,
            cluster.join("3", "lobby", server=0) as last,
            cluster.join("4", "lobby", server=1) as speaker,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(draining.end)
            said = 0
            with trio.fail_after(DRAIN_S):
                # All but one have been sent away: etcd has not had it for long.
                while [first.closed, second.closed, last.closed].count(None) > 1:
                    await speaker.publish(b"%d" % said, level=Level.IMPORTANT)
                    said += 1
                    await trio.sleep(0.1)
                assert draining.key not in await cluster.etcd.keys()
                (member,) = (each for each in (first, second, last) if each.closed is None)
                heard = [int(message.data) async for message in member.messages()]
            assert heard[: said - 1] == list(range(said - 1))


async def test_nothing_stays_in_etcd_of_services_that_end(etcd_path: str, tmp_path: Path) -> None:
    lease = {"ROOMCAST_SRV__TTL": str(LEASE_S)}
    settings = {"conn": lease, "logic": lease, "job": lease}
    async with open_cluster(etcd_path, tmp_path, jobs=2, settings=settings) as cluster:
        ended = [cluster.conns[0], cluster.jobs[0], cluster.logics[0]]
        killed = [cluster.conns[1], cluster.jobs[1], cluster.logics[1]]
        for service in ended:
            began = trio.current_time()
            assert await service.end() == 0
            assert trio.current_time() - began < DRAIN_S
            assert service.key not in await cluster.etcd.keys()
        for service in killed:
            await service.kill()
        assert {service.key for service in killed} <= (await cluster.etcd.keys()).keys()
        with trio.fail_after(LEASE_S + LEASE_CHECK_S):
            await cluster.wait_keys(*killed, present=False)


async def test_job_worker_is_killed_and_all_that_was_accepted_arrives(etcd_path: str, tmp_path: Path) -> None:
    # What it had on loan comes again when nsqd has waited long enough, and to some members once more.
    settings = {"job": {"ROOMCAST_NSQ__MSGTIMEOUT": "2s"}}
    async with (
        open_cluster(etcd_path, tmp_path, logics=1, settings=settings) as cluster,
        open_crowd(cluster, Talk(members=16, rooms=2)) as crowd,
    ):
        await trio.sleep(0.5)
        await cluster.jobs[0].kill()
        await cluster.jobs[0].start()
        await crowd.wait_resumed()
        await crowd.hush()
        assert not await crowd.settle()
        again = crowd.ledger.repeated()
        print(f"said {len(crowd.ledger.said)}, heard once more {again}")
        assert {said.outcome for said in crowd.ledger.said} == {"accepted"}


async def test_logic_server_is_killed_and_the_other_one_is_asked_without_loss_or_copies(
    etcd_path: str, tmp_path: Path
) -> None:
    async with (
        open_cluster(etcd_path, tmp_path, conns=1) as cluster,
        open_crowd(cluster, Talk(members=12, rooms=3)) as crowd,
    ):
        for logic in cluster.logics:
            await logic.kill()
            assert await crowd.wait_resumed() < LONGEST_SILENCE_S
            await logic.start()
            await cluster.conns[0].wait_number("roomcast_logic_open", 2)
        await judge(crowd)
        assert {said.outcome for said in crowd.ledger.said} == {"accepted"}
