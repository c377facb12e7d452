"""The browser driver itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chromium import Browser, BrowserError
from tests.clients.fake_server import FakeServer, open_fake_server


@pytest.mark.usefixtures("no_leaks")
async def test_browser_runs_scripts_shows_pages_and_tells_errors(chromium: Browser, tmp_path: Path) -> None:
    tab = await chromium.new_tab("data:text/html,<title>one</title><body>hello")
    assert await tab.evaluate("Promise.resolve({title: document.title, sum: 1 + 1})") == {
        "title": "one",
        "sum": 2,
    }
    await tab.wait_until("document.body.innerText === 'hello'")
    with pytest.raises(AssertionError, match="not in"):
        await tab.wait_until("false", 0.1)
    with pytest.raises(BrowserError, match="thrown on purpose"):
        await tab.evaluate("(() => { throw new Error('thrown on purpose') })()")
    await tab.resize(320, 200)
    await tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert tab.take_problems() == []
    await tab.evaluate("console.error('seen', 1); setTimeout(() => { throw new Error('uncaught') })")
    await tab.evaluate("new Promise(resolve => setTimeout(resolve, 1))")
    problems = tab.take_problems()
    assert problems[0] == "seen 1"
    assert "uncaught" in problems[1]


async def test_breach_of_the_content_security_policy_is_a_problem(chromium: Browser, tmp_path: Path) -> None:
    # With an icon: a browser that is told of none asks for favicon.ico at any moment, and complains.
    (tmp_path / "icon.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "index.html").write_text(
        "<link rel='icon' href='icon.svg'><script>document.title = 'inline'</script><body>hello"
    )
    async with open_fake_server(FakeServer(files=tmp_path)) as server:
        tab = await chromium.new_tab(server.url)
        assert await tab.evaluate("document.title") == ""
        assert any("Content Security Policy" in problem for problem in tab.take_problems())
