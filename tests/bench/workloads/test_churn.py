from __future__ import annotations

import pytest

from tests.bench.running import carry_out, carry_out_in_parts, is_sent, plan_for
from tests.clients.fake_server import open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_clients_leave_and_come_back_at_a_rate() -> None:
    async with open_fake_server() as server:
        plan = plan_for(server.room_url, workload="churn", connections=10, rate=50.0)
        opened, total = await carry_out(plan)
        await server.wait_for_members(0)
        sign_ins = len(server.sign_ins)
    assert opened.counts["connections"] == total.count("connections") == 10
    assert is_sent(total.count("units"), 20)
    assert sign_ins >= 10 + total.count("units")
    assert sum(total.spans["open"].counts.values()) == 10  # who comes back says goodbye first
    assert total.count("units") - 3 <= sum(total.spans["return"].counts.values()) <= 22
    assert total.problems == {}


async def test_processes_without_clients_leave_the_rate_to_the_others() -> None:
    async with open_fake_server() as server:
        plan = plan_for(server.room_url, workload="churn", connections=1, rate=25.0)
        total = await carry_out_in_parts(plan, 2)
    assert is_sent(total.count("units"), 10)
