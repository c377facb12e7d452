"""client.js in Chromium, beside the page's own: when it comes back, when it stays away, what it says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schema.access import Code
from schema.closing import CloseCode, draining_reason
from schema.envelope import PackageType
from tests.chromium import Browser, Tab
from tests.clients.fake_server import FakeServer, open_fake_server

FILES = Path(__file__).resolve().parents[3] / "clients" / "js"

START = """
(async ({ tokens, answerDeadlineMs }) => {
  const { Refused, RoomClient } = await import("/client.js");
  const url = location.origin.replace("http", "ws") + "/room";
  window.events = [];
  window.asked = 0;
  const fetchToken = async () => {
    const token = tokens[Math.min(asked++, tokens.length - 1)];
    if (typeof token === "string") return token;
    throw token === null ? new Error("not now") : new Refused({ code: token, text: "not you" });
  };
  window.client = new RoomClient({ url, room: "lobby", fetchToken, answerDeadlineMs });
  for (const name of ["state", "message", "joined", "heartbeat"]) {
    client.addEventListener(name, ({ detail }) => events.push({ name, ...detail }));
  }
  window.running = client.run();
  window.all = (name) => events.filter((event) => event.name === name);
  window.states = () => all("state").map((event) => event.state);
})
"""


@pytest.fixture
async def server(chromium: Browser) -> AsyncIterator[FakeServer]:
    async with open_fake_server(FakeServer(files=FILES)) as server:
        yield server
        await chromium.close_tabs()


async def start(
    browser: Browser, server: FakeServer, *tokens: str | int | None, answer_deadline_ms: int = 10_000
) -> Tab:
    """Run a client; it gets `tokens` in turn: a number is a refusal with that code, None another error."""
    tab = await browser.new_tab(server.url)
    options = {"tokens": tokens or ("token-of-ann",), "answerDeadlineMs": answer_deadline_ms}
    await tab.evaluate(f"{START}({json.dumps(options)})")
    return tab


async def states(tab: Tab) -> Any:
    return await tab.evaluate("states()")


async def test_heartbeats_go_by_themselves_draining_is_waited_out_and_stop_is_final(
    chromium: Browser, server: FakeServer
) -> None:
    server.heartbeat_timeout_s = 1
    tab = await start(chromium, server)
    await tab.wait_until("all('heartbeat').length >= 2")
    assert await tab.evaluate("client.members()") == 1
    await server.close_all(CloseCode.GOING_AWAY, draining_reason(300))
    await tab.wait_until("states().at(-1) === 'waiting'")
    assert 400 <= await tab.evaluate("all('state').at(-1).retryInMs") <= 800
    await tab.wait_until("states().at(-1) === 'joined'")
    await tab.evaluate("client.stop(), running")
    await server.wait_for_members(0)
    assert await states(tab) == ["connecting", "joined", "waiting", "connecting", "joined", "stopped"]
    assert await tab.evaluate("client.members().catch((error) => error.name)") == "Disconnected"


async def test_unanswered_heartbeat_ends_the_connection_and_a_new_one_is_made(
    chromium: Browser, server: FakeServer
) -> None:
    server.silent.add(PackageType.HEARTBEAT)
    tab = await start(chromium, server, answer_deadline_ms=100)
    await tab.wait_until("states().includes('waiting')")
    server.silent.clear()
    await tab.wait_until("all('heartbeat').length === 1")
    assert await tab.evaluate("all('state').find(({state}) => state === 'waiting').reason") == (
        "the server did not answer in time"
    )


async def test_old_token_is_renewed_once_and_a_refused_new_one_ends_it(
    chromium: Browser, server: FakeServer
) -> None:
    tab = await start(chromium, server, "token-of-ann", "worn out")
    await tab.wait_until("states().at(-1) === 'joined'")
    await server.close_all(CloseCode.TOKEN_EXPIRED)
    await tab.wait_until("states().at(-1) === 'stopped'")
    assert await tab.evaluate("[asked, all('state').at(-1).reason]") == [
        2, "rpc error: code = Unknown desc = 登录信息过期",
    ]  # fmt: skip


async def test_logic_that_cannot_be_reached_does_not_log_its_user_out(
    chromium: Browser, server: FakeServer
) -> None:
    server.refuse["lobby"] = (Code.UNAVAILABLE, "nobody could be asked")
    tab = await start(chromium, server)
    await tab.wait_until("states().includes('waiting')")
    server.refuse.clear()
    await tab.wait_until("states().at(-1) === 'joined'")
    assert await tab.evaluate("asked") == 1


async def test_close_during_the_sign_in_keeps_its_meaning(chromium: Browser, server: FakeServer) -> None:
    server.silent.add(PackageType.SIGN_IN)
    tab = await start(chromium, server)
    await server.wait_for_frames(PackageType.SIGN_IN)
    await server.close_all(CloseCode.REFUSED, "not from there")
    await tab.wait_until("states().at(-1) === 'stopped'")
    assert await tab.evaluate("all('state').at(-1).reason") == "not from there"


@pytest.mark.parametrize("code", [0, Code.NOT_SIGNED_IN, Code.UNAVAILABLE])
async def test_refusal_of_who_gives_tokens_is_final_whatever_its_code(
    chromium: Browser, server: FakeServer, code: int
) -> None:
    """It was judged as if the conn server had refused the sign-in, and with 100 and 503 came for ever."""
    tab = await start(chromium, server, int(code))
    await tab.evaluate("running")
    assert await tab.evaluate("[asked, all('state').at(-1).reason]") == [1, "not you"]
    assert await states(tab) == ["connecting", "stopped"]


async def test_token_that_cannot_be_had_now_is_asked_for_again(chromium: Browser, server: FakeServer) -> None:
    tab = await start(chromium, server, None, "token-of-ann")
    await tab.wait_until("states().at(-1) === 'joined'")
    assert await states(tab) == ["connecting", "waiting", "connecting", "joined"]
