from __future__ import annotations

import pytest
import trio

from tests.bench.raw import open_script
from tests.bench.running import carry_out, plan_for
from tests.clients.fake_server import open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_newcomers_come_at_once_and_residents_are_watched_before_and_during_it() -> None:
    async with open_fake_server() as server:
        plan = plan_for(
            server.room_url,
            workload="storm",
            connections=30,
            residents=4,
            interval_s=0.02,
            duration_s=0.6,
        )
        opened, total = await carry_out(plan)
    assert opened.counts["connections"] == 4
    assert total.count("units") == 30
    assert total.count("connections") == 34
    assert sum(total.spans["open"].counts.values()) == 30
    assert 0 < total.count("storm_ns") < 1_400_000_000
    assert total.spans["quiet"].counts
    assert total.spans["stormy"].counts
    assert total.problems == {}


async def test_who_is_refused_comes_back_when_asked_to() -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n")

    async with open_script(script) as port:
        plan = plan_for(
            f"ws://127.0.0.1:{port}/room", workload="storm", connections=3, retries=2, duration_s=0.3
        )
        _, total = await carry_out(plan)
    assert (total.count("units"), total.count("unsettled")) == (0, 0)
    assert total.problems == {"not signed in: HTTP 503": 9}


async def test_newcomers_that_the_end_finds_outside_are_counted() -> None:
    async def script(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with open_script(script) as port:
        url = f"ws://127.0.0.1:{port}/room"
        plan = plan_for(url, workload="storm", connections=3, duration_s=0.2, drain_s=0.1)
        _, total = await carry_out(plan)
    assert (total.count("units"), total.count("unsettled")) == (0, 3)
