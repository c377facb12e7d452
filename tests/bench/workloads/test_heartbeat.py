from __future__ import annotations

import pytest
import trio

from schema.envelope import PackageType, Request
from tests.bench.running import carry_out, carry_out_in_parts, carry_out_on_time, is_sent, plan_for
from tests.clients.fake_server import FakeServer, Member, open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_open_loop_sends_at_its_rate_and_every_heartbeat_is_answered() -> None:
    async with open_fake_server() as server:
        plan = plan_for(server.room_url, workload="heartbeat", connections=10, rate=100.0)
        opened, total = await carry_out(plan)
        await server.wait_for_members(0)
    assert opened.counts["connections"] == 10
    assert is_sent(total.count("units"), 40)
    assert total.count("unanswered") == 0
    assert total.count("units") - 3 <= sum(total.spans["latency"].counts.values()) <= 42
    assert total.problems == {}


async def test_closed_loop_goes_on_as_soon_as_it_is_answered() -> None:
    async with open_fake_server() as server:
        plan = plan_for(server.room_url, workload="heartbeat", connections=5, active=0.4, duration_s=0.2)
        _, total = await carry_out(plan)
        beating = {frame.type for frame in server.frames}
    assert total.count("units") > 10
    assert PackageType.HEARTBEAT in beating


async def test_processes_without_clients_leave_the_rate_to_the_others() -> None:
    # Each process had the same part of the rate, also those that had nobody to send it.
    async with open_fake_server() as server:
        plan = plan_for(server.room_url, workload="heartbeat", connections=2, active=0.5, rate=100.0)
        total = await carry_out_in_parts(plan, 3)
    assert total.count("connections") == 2
    assert is_sent(total.count("units"), 40)


class Overloaded(FakeServer):
    """Answers one heartbeat at a time, each after 20 ms: 50 a second."""

    turn = trio.Lock()

    async def answer_request(self, member: Member, request: Request) -> None:
        if request.type == PackageType.HEARTBEAT:
            async with self.turn:
                await trio.sleep(0.02)
        await super().answer_request(member, request)


async def test_what_an_overloaded_server_answers_afterwards_is_not_its_rate() -> None:
    # 200/s were due; once, all that was answered in the drain counted too, against the CPU of the window.
    async with open_fake_server(Overloaded()) as server:
        plan = plan_for(server.room_url, workload="heartbeat", connections=5, rate=200.0, drain_s=3.0)
        total = await carry_out_on_time(plan)
    assert total.count("units") <= 0.4 * 50 + 1
    assert is_sent(sum(total.spans["latency"].counts.values()), 80)


async def test_heartbeats_that_are_never_answered_are_counted() -> None:
    server = FakeServer(silent={PackageType.HEARTBEAT})
    async with open_fake_server(server):
        plan = plan_for(server.room_url, workload="heartbeat", connections=3, duration_s=0.1, drain_s=0.1)
        _, total = await carry_out(plan)
    assert (total.count("units"), total.count("unanswered")) == (0, 3)
