from __future__ import annotations

import pytest
import trio

from schema.access import Code
from schema.envelope import PackageType, Request
from tests.bench.running import carry_out, is_sent, plan_for
from tests.clients.fake_server import FakeServer, Member, open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")


def assert_no_fault(counts: dict[str, int]) -> None:
    assert {name: counts[name] for name in ("duplicates", "late", "disordered")} == {
        "duplicates": 0,
        "late": 0,
        "disordered": 0,
    }


@pytest.mark.parametrize("version", [0, 1])
async def test_fanout_reaches_every_member_once(version: int) -> None:
    async with open_fake_server() as server:
        plan = plan_for(
            server.room_url,
            version=version,
            workload="fanout",
            connections=12,
            rooms=2,
            rate=40.0,
            important=0.5,
        )
        _, total = await carry_out(plan)
    assert_no_fault(dict(total.counts))
    assert is_sent(total.count("messages"), 18)
    assert total.count("unique") == 6 * total.count("messages")
    assert 0 < total.count("units") == total.count("frames") <= total.count("unique")
    assert total.spans["latency_important"].counts
    assert total.spans["latency_normal"].counts
    assert bool(total.spans["ack"].counts) == bool(version)


@pytest.mark.parametrize(("version", "rate"), [(0, None), (0, 100.0), (1, None), (1, 100.0)])
async def test_ingest_counts_what_is_accepted_by_either_generation(version: int, rate: float | None) -> None:
    async with open_fake_server() as server:
        plan = plan_for(
            server.room_url,
            version=version,
            workload="ingest",
            connections=6,
            rooms=3,
            rate=rate,
            duration_s=0.2,
        )
        _, total = await carry_out(plan)
    assert_no_fault(dict(total.counts))
    assert total.count("accepted") == total.count("units") > 5
    assert total.count("unique") == 2 * total.count("messages")
    assert total.count("unanswered") == total.count("refused") == 0
    assert total.spans["own"].counts


class Unfriendly(FakeServer):
    """Lets everybody in, and takes nothing from them."""

    def sign_in(self, member: Member, request: Request) -> bytes:
        reply = super().sign_in(member, request)
        self.refuse[member.room] = (Code.TOO_FAST, "slow down")
        return reply


async def test_refused_messages_are_counted_and_not_missed() -> None:
    async with open_fake_server(Unfriendly()) as server:
        plan = plan_for(server.room_url, workload="ingest", connections=2, rooms=2, rate=50.0, duration_s=0.2)
        _, total = await carry_out(plan)
    assert total.count("refused") == total.count("messages") > 5
    assert total.count("accepted") == total.count("unique") == 0
    assert total.problems["refused: 429 slow down"] == total.count("refused")


@pytest.mark.parametrize("rate", [None, 60.0])
async def test_push_posts_and_every_member_hears_it_once(rate: float | None) -> None:
    async with open_fake_server() as server:
        plan = plan_for(
            server.room_url,
            workload="push",
            via="post",
            connections=4,
            rooms=2,
            senders=2,
            rate=rate,
            duration_s=0.3,
        )
        _, total = await carry_out(plan)
    assert_no_fault(dict(total.counts))
    assert total.count("accepted") == total.count("units") > 5
    assert total.count("unique") == 2 * total.count("messages")
    assert total.count("unanswered") == total.count("refused") == 0
    assert total.problems == {}


async def test_members_that_stop_reading_are_not_waited_for() -> None:
    async with open_fake_server() as server:
        plan = plan_for(server.room_url, workload="fanout", connections=4, rate=40.0, stalled=2)
        opened, total = await carry_out(plan)
        rooms = [room for _, room, _ in server.sign_ins]
    assert len(rooms) == 6
    assert opened.counts["connections"] == 4
    assert (total.count("stalled"), total.count("evicted")) == (2, 0)
    assert total.count("unique") == 4 * total.count("messages")


@pytest.mark.parametrize("unread", [0, 200_000])
async def test_members_that_stop_reading_and_are_sent_away_are_counted(unread: int) -> None:
    # The goodbye is in the socket, or, once the buffers are full, behind what has not been read.
    class Strict(FakeServer):
        async def evict(self) -> None:
            await self.wait_for_frames(PackageType.MESSAGE)  # everybody is in
            stalled = self.members[-1].websocket
            if unread:
                await stalled.send_message(bytes(unread))
            await stalled.aclose(4008)

    server = Strict()
    async with open_fake_server(server), trio.open_nursery() as nursery:
        nursery.start_soon(server.evict)
        plan = plan_for(server.room_url, workload="fanout", connections=2, rate=20.0, stalled=1, drain_s=0.1)
        _, total = await carry_out(plan)
        nursery.cancel_scope.cancel()
    assert (total.count("stalled"), total.count("evicted")) == (1, 1)
    assert total.problems == {"ended: closed with 4008": 1}


async def test_rooms_of_unlike_size_miss_nothing() -> None:
    async with open_fake_server() as server:
        plan = plan_for(
            server.room_url, workload="ingest", connections=5, rooms=3, rate=100.0, duration_s=0.2
        )
        _, total = await carry_out(plan)
    assert total.count("unique") == total.count("expected") > 0
    assert total.count("messages") < total.count("expected") < 2 * total.count("messages")
