"""The demo page on the real system: what `make run` invites to, done by a browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.chromium import Browser, Tab
from tests.standalone.running import Running, running

pytestmark = pytest.mark.usefixtures("no_leaks")

# Two browser tabs and the system share what a small machine has.
PATIENCE_S = 20.0
TEXTS = "[...document.querySelectorAll('#messages .text')].map((text) => text.textContent)"
SENDERS = "[...document.querySelectorAll('#messages .sender')].map((sender) => sender.textContent)"


@asynccontextmanager
async def running_for(browser: Browser, **settings: str) -> AsyncIterator[Running]:
    """Run the system until the tabs that use it are closed."""
    async with running(**settings) as system:
        yield system
        await browser.close_tabs()


async def join(browser: Browser, system: Running, name: str, room: str = "lobby") -> Tab:
    """Fill the form in and press Enter, as a person does."""
    tab = await browser.new_tab(system.where.http_url + "/")
    for field, text in (("name", name), ("room", room)):
        await tab.evaluate(f"document.querySelector('#{field}').value = ''")
        await write(tab, f"#{field}", text)
    await press_enter(tab)
    await tab.wait_until("document.querySelector('#connection').dataset.state === 'joined'", PATIENCE_S)
    return tab


async def write(tab: Tab, selector: str, text: str) -> None:
    await tab.evaluate(f"document.querySelector('{selector}').focus()")
    await tab.call("Input.insertText", text=text)


async def press_enter(tab: Tab) -> None:
    for kind in ("keyDown", "keyUp"):
        await tab.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")


async def say(tab: Tab, text: str) -> None:
    await write(tab, "#text", text)
    await press_enter(tab)


async def wait_for_texts(tab: Tab, *texts: str) -> None:
    await tab.wait_until(f"JSON.stringify({TEXTS}) === JSON.stringify({json.dumps(texts)})", PATIENCE_S)


async def text_of(tab: Tab, selector: str) -> str:
    return str(await tab.evaluate(f"document.querySelector('{selector}').textContent"))


async def style_of(tab: Tab, selector: str, name: str) -> Any:
    return await tab.evaluate(f"getComputedStyle(document.querySelector('{selector}'))['{name}']")


async def test_two_tabs_chat(chromium: Browser) -> None:
    async with running_for(chromium) as system:
        ann = await join(chromium, system, "ann")
        assert await text_of(ann, "#members") == "only you"
        bob = await join(chromium, system, "bob")
        assert await text_of(bob, "#members") == "2 members"
        await bob.wait_until(
            "document.querySelector('#round-trip').textContent.startsWith('heartbeat')", PATIENCE_S
        )
        said = ["hello", "你好 <b>bob</b>", "how are you?"]
        for text in said:
            await say(ann, text)
        await bob.evaluate("document.querySelector('#important').click()")
        await say(bob, "fire drill at noon")
        await wait_for_texts(bob, *said, "fire drill at noon")
        await write(ann, "#text", "as a back end says it")
        await ann.evaluate("document.querySelector('#post').click()")
        for tab in (ann, bob):
            await wait_for_texts(tab, *said, "fire drill at noon", "as a back end says it")
            assert await tab.evaluate(SENDERS) == ["ann", "ann", "ann", "bob", "ann"]
            assert await tab.evaluate("document.querySelectorAll('.message.important').length") == 2
        # Important messages look different, and are read out at once.
        for what in ("backgroundColor", "borderInlineStartWidth"):
            plain = await style_of(bob, ".message:not(.important) .bubble", what)
            assert await style_of(bob, ".message.important .bubble", what) != plain
        assert await text_of(bob, "#urgent") == "Important, from ann: as a back end says it"
        # Ann's page asks how many there are every five seconds.
        await ann.wait_until("document.querySelector('#members').textContent === '2 members'", PATIENCE_S)
        assert [tab.take_problems() for tab in (ann, bob)] == [[], []]


async def test_both_tabs_see_the_same_order_whoever_speaks(chromium: Browser) -> None:
    async with running_for(chromium, job__room__signal="50ms") as system:
        tabs = [await join(chromium, system, name) for name in ("ann", "bob")]
        for number in range(5):
            for tab in tabs:
                await say(tab, str(number))
        for tab in tabs:
            await tab.wait_until(f"{TEXTS}.length === 10", PATIENCE_S)
        orders = [await tab.evaluate(f"[{TEXTS}, {SENDERS}]") for tab in tabs]
        assert orders[0] == orders[1]
        texts, senders = orders[0]
        for name in ("ann", "bob"):
            own = [text for text, sender in zip(texts, senders, strict=True) if sender == name]
            assert own == [str(number) for number in range(5)]


async def test_page_leaves_for_another_room_and_comes_back_after_a_restart(chromium: Browser) -> None:
    async with running() as system:
        tab = await join(chromium, system, "ann")
        await write(tab, "#switch-room", "cellar")
        await press_enter(tab)
        await tab.wait_until("document.querySelector('#room-name').textContent === '# cellar'", PATIENCE_S)
        await say(tab, "anybody here?")
        await wait_for_texts(tab, "anybody here?")
        numbers = await system.numbers()
        assert (numbers["roomcast_rooms_rooms"], numbers["roomcast_rooms_memberships"]) == (1, 1)
        bind = system.where.http_url.removeprefix("http://")
        system.drain.start()
        await system.ended.wait()
        await tab.wait_until("document.querySelector('#connection').dataset.state === 'waiting'", PATIENCE_S)
    async with running_for(chromium, conn__websocket__bind=bind):
        await tab.wait_until("document.querySelector('#connection').dataset.state === 'joined'", PATIENCE_S)
        await say(tab, "here again")
        await wait_for_texts(tab, "anybody here?", "here again")
    tab.take_problems()  # while nobody listened, the browser said so
