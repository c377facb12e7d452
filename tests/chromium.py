"""A headless Chromium driven over its DevTools protocol (CDP), without a driver program.

    running_browser      its process, one for all tests: to start one takes longer than most of them
    open_browser         a test's own part of it: a context with its cookies, storage and tabs
     `- reader           answers to their callers, events to their tabs

A test takes the fixture `chromium`.  It fails on what a user would find in the console: errors, uncaught
exceptions, CSP violations.  A test that provokes some takes them with `Tab.take_problems`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # which refuses to start as root, and in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-breakpad",
    # Two tabs of one test are both looked at: neither is a background tab whose timers may be slow.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)
START_DEADLINE_S = 20.0
CALL_DEADLINE_S = 10.0
CLOSE_DEADLINE_S = 3.0
MAX_MESSAGE_BYTES = 32 << 20  # a screenshot is one message

Json = dict[str, Any]


class BrowserError(Exception):
    """The browser refuses a command, or a script in the page has thrown."""


class Tab:
    """One page.  Owned by its browser, which also closes it.

    Attributes:
        target: the browser's name for it.
    """

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.target = target
        self._browser = browser
        self._session = session
        self._problems: list[str] = []

    async def call(self, method: str, **params: object) -> Json:
        """Give one DevTools command to this page."""
        return await self._browser.call(method, self._session, **params)

    async def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is waited for.

        Raises:
            BrowserError: it has thrown.
        """
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(_thrown(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def wait_until(self, condition: str, deadline_s: float = 20.0) -> None:
        """Wait until a JavaScript expression is true; asks again and again, so it survives a reload.

        Raises:
            AssertionError: it is not, `deadline_s` later.
        """
        with trio.move_on_after(deadline_s):
            while True:
                if await self.evaluate(f"!!({condition})"):
                    return
                await trio.sleep(0.02)
        text = await self.evaluate("document.body.innerText")
        raise AssertionError(f"not in {deadline_s} s: {condition}\nproblems: {self._problems}\npage:\n{text}")

    async def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Show the page at this size in CSS pixels, in the light or the dark colour scheme."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        """Write what is visible as PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        await trio.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def take_problems(self) -> list[str]:
        """Return the console errors, exceptions and CSP violations so far, and forget them."""
        problems, self._problems = self._problems, []
        return problems

    def event_received(self, method: str, params: Json) -> None:
        """Note what a user would find red in the console."""
        if method == "Runtime.exceptionThrown":
            self._problems.append(_thrown(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            words = (str(arg.get("value", arg.get("description"))) for arg in params["args"])
            self._problems.append(" ".join(words))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self._problems.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")


class Browser:
    """A context of its own in a running Chromium.  Owned by `open_browser`."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self._websocket = websocket
        self._context = ""
        self._ids = count(1)
        self._answers: dict[int, Json] = {}
        self._waiting: dict[int, trio.Event] = {}
        self._tabs: dict[str, Tab] = {}

    async def new_tab(self, url: str = "about:blank") -> Tab:
        """Open `url` in a window of its own, with its console watched from the start."""
        created = await self.call(
            "Target.createTarget", url="about:blank", newWindow=True, browserContextId=self._context
        )
        target = created["targetId"]
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        session = attached["sessionId"]
        tab = self._tabs[session] = Tab(self, session, target)
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        if url != "about:blank":
            await tab.call("Page.navigate", url=url)
            await tab.wait_until("location.href !== 'about:blank' && document.readyState === 'complete'")
        return tab

    async def begin(self) -> None:
        """Make the context; it and its tabs end with the connection, whatever becomes of the test."""
        created = await self.call("Target.createBrowserContext", disposeOnDetach=True)
        self._context = created["browserContextId"]

    async def close_tabs(self) -> None:
        """Close all pages; what was red in their consoles stays known.

        To be called before their server ends: otherwise those who try to come back to it complain, in time
        to be noticed or not.
        """
        for tab in self._tabs.values():
            await self.call("Target.closeTarget", targetId=tab.target)

    def problems(self) -> list[str]:
        """Return what nobody has taken from the tabs."""
        return [problem for tab in self._tabs.values() for problem in tab.take_problems()]

    async def call(self, method: str, session: str | None = None, **params: object) -> Json:
        """Give one DevTools command and return its result.

        Raises:
            BrowserError: the browser refuses it.
            trio.TooSlowError: no answer in time.
        """
        id_ = next(self._ids)
        command = {"id": id_, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        self._waiting[id_] = trio.Event()
        try:
            with trio.fail_after(CALL_DEADLINE_S):
                await self._websocket.send_message(json.dumps(command))
                await self._waiting[id_].wait()
        finally:
            del self._waiting[id_]
            answer = self._answers.pop(id_, {})
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        result: Json = answer["result"]
        return result

    async def read(self) -> None:
        """Take answers and events until the browser has gone."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = json.loads(await self._websocket.get_message())
                if message.get("id") in self._waiting:
                    self._answers[message["id"]] = message
                    self._waiting[message["id"]].set()
                elif "method" in message and message.get("sessionId") in self._tabs:
                    self._tabs[message["sessionId"]].event_received(message["method"], message["params"])


@contextmanager
def running_browser(executable: str) -> Iterator[Path]:
    """Run `executable` with a fresh profile, which is yielded; it is gone when the block is left."""
    with (
        # The browser's last helpers may still write there while it is being removed.
        tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile,
        subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Path(profile)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_DEADLINE_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def open_browser(profile: Path) -> AsyncIterator[Browser]:
    """Open a context in the browser with that profile; its tabs close with the block."""
    port, path = await _devtools(profile)
    # The stream is ours: trio-websocket does not close one whose other end has gone first.
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as readers:
        with trio.fail_after(START_DEADLINE_S):
            websocket = await wrap_client_stream(
                readers, stream, f"127.0.0.1:{port}", path, max_message_size=MAX_MESSAGE_BYTES
            )
        browser = Browser(websocket)
        readers.start_soon(browser.read)
        await browser.begin()
        yield browser
        readers.cancel_scope.cancel()


@pytest.fixture(scope="session")
def chromium_profile() -> Iterator[Path]:
    """The folder by which the tests' browser is found; without one a test is skipped, and fails in CI."""
    # Not async: a skip inside a nursery arrives as a group, and its reason is lost.
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is not None:
        with running_browser(executable) as profile:
            yield profile
        return
    missing = f"no browser on PATH ({', '.join(NAMES)}): install Debian's chromium to run this test"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.fixture
async def chromium(chromium_profile: Path) -> AsyncIterator[Browser]:
    """A browser for one test, which fails on console errors that it has not taken."""
    async with open_browser(chromium_profile) as browser:
        yield browser
        problems = browser.problems()
    assert not problems, "in the browser's console:\n" + "\n".join(problems)


async def _devtools(profile: Path) -> tuple[int, str]:
    """Return the browser's port and path, which it writes into its profile once it listens."""
    told = trio.Path(profile / "DevToolsActivePort")
    with trio.fail_after(START_DEADLINE_S):
        while True:
            with contextlib.suppress(FileNotFoundError):
                lines = (await told.read_text()).split()
                if len(lines) == 2:
                    return int(lines[0]), lines[1]
            await trio.sleep(0.02)


def _thrown(details: Json) -> str:
    thrown = details.get("exception", {})
    return f"{details['text']} {thrown.get('description', thrown.get('value', ''))}"
