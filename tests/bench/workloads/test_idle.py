from __future__ import annotations

import ssl

import pytest
import trustme

from bench.plan import Plan, Target
from tests.bench.running import TOKENS, carry_out, plan_for
from tests.clients.fake_server import open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize("version", [0, 1])
async def test_clients_sign_in_and_are_still_there_at_the_end(version: int) -> None:
    async with open_fake_server() as server:
        plan = plan_for(
            server.room_url, version=version, workload="idle", connections=12, rooms=3, duration_s=0.1
        )
        opened, total = await carry_out(plan)
        rooms = {room for _, room, _ in server.sign_ins}
        versions = {told for *_, told in server.sign_ins}
    assert opened.counts["connections"] == total.count("units") == 12
    assert (len(rooms), versions) == (3, {version})
    assert total.problems == {}


async def test_clients_speak_tls_without_looking_at_the_certificate() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with open_fake_server(ssl_context=context) as server:
        shape = plan_for(server.room_url, workload="idle", connections=3, duration_s=0.1)
        target = Target(url=server.room_url, tokens=TOKENS, insecure=True)
        opened, _ = await carry_out(Plan(target=target, load=shape.load, run=1))
    assert opened.counts["connections"] == 3
