from __future__ import annotations

from pathlib import Path

import pytest

from conn_server.http.demo import read_pages
from tests.chromium import Browser
from tests.conn_server.http.serving import http_port

pytestmark = pytest.mark.usefixtures("no_leaks")

DEMO = Path(__file__).resolve().parents[3] / "clients" / "js"


def test_page_and_all_its_files_are_read() -> None:
    pages = read_pages(DEMO)
    assert pages["/"] == pages["/index.html"]
    assert pages["/"].content_type == "text/html; charset=utf-8"
    assert pages["/client.js"].body == (DEMO / "client.js").read_bytes()
    assert pages["/client.js"].content_type == "text/javascript; charset=utf-8"


def test_without_a_folder_there_are_no_pages() -> None:
    assert read_pages(None) == {}


def test_only_known_types_are_read_also_from_folders(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    for name in ("index.html", "lib/a.js", "notes.md", ".secret", "key.pem"):
        (tmp_path / name).write_bytes(b"x")
    assert set(read_pages(tmp_path)) == {"/", "/index.html", "/lib/a.js"}


def test_folder_without_a_page_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index\.html"):
        read_pages(tmp_path)


async def test_policy_lets_the_page_open_a_websocket_to_its_own_server_only(chromium: Browser) -> None:
    open_socket = """new Promise(resolve => {
        try { new WebSocket(%s).onerror = resolve } catch { resolve() }
    }).then(() => true)"""
    async with http_port(demo=DEMO) as served:
        tab = await chromium.new_tab(f"http://127.0.0.1:{served.address[1]}/")
        await tab.wait_until("document.querySelector('#room').value === 'lobby'")  # app.js has run
        assert tab.take_problems() == []
        await tab.evaluate(open_socket % "location.href.replace('http', 'ws') + 'room'")
        assert served.routes.statistics().refusals == {"no_upgrade": 1}  # it came: nothing here upgrades
        assert not any("Content Security Policy" in problem for problem in tab.take_problems())
        await tab.evaluate(open_socket % f"'ws://localhost:{served.address[1]}/room'")
        assert served.routes.statistics().refusals == {"no_upgrade": 1}
        assert any("Content Security Policy" in problem for problem in tab.take_problems())
