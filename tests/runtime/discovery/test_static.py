from __future__ import annotations

import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from runtime.discovery import Discovery
from runtime.discovery.static import StaticDiscovery


def discovery_of(**peers: list[str]) -> StaticDiscovery:
    return StaticDiscovery(peers, structlog.get_logger())


async def test_servers_are_the_settings_and_never_change(autojump_clock: MockClock) -> None:
    static = discovery_of(room_logic=["a:1", "b:1"])
    discovery: Discovery = static
    async with discovery.watch("room_logic") as peers:
        assert peers.addresses == {"a:1", "b:1"}
        assert await peers.wait_changed(frozenset()) == {"a:1", "b:1"}
        with trio.move_on_after(1000) as waiting:
            await peers.wait_changed(frozenset({"a:1", "b:1"}))
        assert waiting.cancelled_caught
    assert static.statistics().peers == {"room_logic": 2}


async def test_service_that_the_settings_do_not_name_has_no_servers() -> None:
    async with discovery_of(room_logic=["a:1"]).watch("room_conn") as peers:
        assert peers.addresses == frozenset()


async def test_announcing_does_nothing_but_say_so() -> None:
    discovery = discovery_of()
    with capture_logs() as logs:
        async with discovery.announce("room_conn", "a:1"):
            assert discovery.statistics().announced == {}
    assert [(line["event"], line["address"]) for line in logs] == [("not announced: no etcd is set", "a:1")]
