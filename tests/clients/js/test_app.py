"""The demo page in Chromium, against a server that speaks the wire: what a user does, and sees."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schema.access import Code
from schema.closing import CloseCode
from schema.message import Level, Message
from tests.chromium import Browser, Tab
from tests.clients.fake_server import NOW_MS, FakeServer, open_fake_server

PAGE = Path(__file__).resolve().parents[3] / "clients" / "js"

# Module-wide: what was shown last, as text.
TEXTS = "[...document.querySelectorAll('#messages .text')].map((text) => text.textContent)"


@pytest.fixture
async def server(chromium: Browser) -> AsyncIterator[FakeServer]:
    async with open_fake_server(FakeServer(files=PAGE)) as server:
        yield server
        await chromium.close_tabs()


async def join(browser: Browser, server: FakeServer, name: str, room: str = "lobby") -> Tab:
    tab = await browser.new_tab(f"{server.url}?name={name}&room={room}")
    await tab.evaluate("document.querySelector('#join button').click()")
    await tab.wait_until("!document.querySelector('#chat').hidden")
    return tab


async def say(tab: Tab, text: str, button: str = "#send-form .primary") -> None:
    await tab.evaluate(f"document.querySelector('#text').value = {json.dumps(text)}")
    await tab.evaluate(f"document.querySelector('{button}').click()")


async def wait_for_texts(tab: Tab, *texts: str) -> None:
    await tab.wait_until(f"JSON.stringify({TEXTS}) === JSON.stringify({json.dumps(texts)})")


async def text_of(tab: Tab, selector: str) -> str:
    return str(await tab.evaluate(f"document.querySelector('{selector}').textContent"))


async def test_two_tabs_chat(chromium: Browser, server: FakeServer) -> None:
    ann = await join(chromium, server, "ann")
    bob = await join(chromium, server, "bob")
    assert await text_of(bob, "#members") == "2 members"
    await bob.wait_until("document.querySelector('#round-trip').textContent.startsWith('heartbeat')")
    await say(ann, "hello <b>bob</b>")
    await wait_for_texts(bob, "hello <b>bob</b>")
    await bob.evaluate("document.querySelector('#important').click()")
    await say(bob, "fire")
    await say(bob, 'by HTTP & "quoted"', "#post")
    for tab in (ann, bob):
        await wait_for_texts(tab, "hello <b>bob</b>", "fire", 'by HTTP & "quoted"')
        assert await tab.evaluate("document.querySelectorAll('.message.important').length") == 2
    assert await ann.evaluate("document.querySelectorAll('.message.own').length") == 1
    assert await text_of(ann, ".message:last-child .sender") == "bob"
    assert await text_of(ann, "#urgent") == 'Important, from bob: by HTTP & "quoted"'
    assert await ann.evaluate("document.querySelector('time').dateTime") == "2023-11-14T22:13:20.000Z"


async def test_records_of_a_merged_push_and_foreign_bytes_are_shown(
    chromium: Browser, server: FakeServer
) -> None:
    tab = await join(chromium, server, "ann")
    # Its length needs three bytes; the decoder in the Go system's README reads one.
    long = "x" * 70_000
    datas = [b"plain", long.encode(), b'"a JSON string"', b'{"type":1,"content":"c"}', b"\xff\x00", b"[1]"]
    await server.push("lobby", [Message("", Level.NORMAL, data, 0, 0, "bot", NOW_MS) for data in datas])
    await wait_for_texts(tab, "plain", long, "a JSON string", "c", "ff00", "[1]")


async def test_switching_rooms_and_a_refusal_that_is_said(chromium: Browser, server: FakeServer) -> None:
    server.refuse["vault"] = (Code.FORBIDDEN, "the token does not allow this room")
    tab = await join(chromium, server, "ann")
    await tab.evaluate("document.querySelector('#switch-room').value = 'vault'")
    await tab.evaluate("document.querySelector('#switch-form button').click()")
    await tab.wait_until("document.querySelector('#send-error').textContent.includes('not allow this room')")
    await tab.evaluate("document.querySelector('#switch-room').value = 'cellar'")
    await tab.evaluate("document.querySelector('#switch-form button').click()")
    await tab.wait_until("document.querySelector('#room-name').textContent === '# cellar'")
    server.refuse["cellar"] = (Code.TOO_FAST, "too many messages, slow down")
    await say(tab, "hello")
    await tab.wait_until("document.querySelector('#send-error').textContent.includes('slow down')")
    assert await tab.evaluate("document.querySelector('#text').value") == "hello"


async def test_page_comes_back_after_a_lost_connection_and_stays_away_when_refused(
    chromium: Browser, server: FakeServer
) -> None:
    tab = await join(chromium, server, "ann")
    await server.close_all(CloseCode.TOKEN_EXPIRED, "token expired")
    await tab.wait_until("document.querySelectorAll('.note').length === 2")
    await say(tab, "still here")
    await wait_for_texts(tab, "still here")
    assert len(server.sign_ins) == 2
    await server.close_all(CloseCode.KICKED, "kicked out")
    await tab.wait_until("document.querySelector('#join-error').textContent === 'kicked out'")
    assert await tab.evaluate("document.querySelector('#connection').dataset.state") == "stopped"
    await server.wait_for_members(0)


async def test_page_says_why_it_cannot_join_and_leaving_leads_back(
    chromium: Browser, server: FakeServer
) -> None:
    server.refuse_tokens = True
    tab = await chromium.new_tab(f"{server.url}?name=ann&room=lobby")
    await tab.evaluate("document.querySelector('#join button').click()")
    await tab.wait_until("document.querySelector('#join-error').textContent === 'no tokens here'")
    server.refuse_tokens = False
    await tab.evaluate("document.querySelector('#join button').click()")
    await tab.wait_until("!document.querySelector('#chat').hidden")
    await tab.evaluate("document.querySelector('#leave').click()")
    await tab.wait_until("document.querySelector('#chat').hidden")
    assert await text_of(tab, "#connection-text") == "not connected"
    await server.wait_for_members(0)


async def test_page_asks_again_for_a_token_that_a_full_node_does_not_give(
    chromium: Browser, server: FakeServer
) -> None:
    server.is_full = True
    tab = await chromium.new_tab(f"{server.url}?name=ann&room=lobby")
    await tab.evaluate("document.querySelector('#join button').click()")
    await tab.wait_until("document.querySelector('#join-error').textContent === 'this node is full'")
    server.is_full = False
    await tab.wait_until("!document.querySelector('#chat').hidden")
    assert all("503" in problem for problem in tab.take_problems())  # what the browser said to each


async def test_page_is_labelled_and_takes_nothing_from_elsewhere(
    chromium: Browser, server: FakeServer
) -> None:
    tab = await join(chromium, server, "ann")
    unlabelled = "[...document.querySelectorAll('input')].filter((input) => input.labels.length !== 1)"
    assert await tab.evaluate(f"{unlabelled}.length") == 0
    foreign = "performance.getEntriesByType('resource').filter(({name}) => !name.startsWith(location.origin))"
    assert await tab.evaluate(f"{foreign}.length") == 0
    for width in (320, 390, 1200):
        await tab.resize(width, 700)
        assert await tab.evaluate("document.documentElement.scrollWidth") <= width
