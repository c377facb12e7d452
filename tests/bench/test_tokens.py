from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from bench.plan import Target
from bench.tokens import NoToken, fetch_tokens, read_secret
from tests.bench.raw import open_script
from tests.clients.fake_server import FakeServer, open_fake_server

SECRET = "a" * 31  # as short as the Go system's


def test_secret_is_read_from_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("BENCH_SECRET", "b" * 40)
    assert read_secret(tmp_path / "secret", "BENCH_SECRET") == SECRET
    assert read_secret(None, "BENCH_SECRET") == "b" * 40
    assert read_secret(None, None) == ""


def test_secret_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_SECRET", raising=False)
    with pytest.raises(NoToken, match="BENCH_SECRET"):
        read_secret(None, "BENCH_SECRET")


def test_secret_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff" * 40)
    with pytest.raises(NoToken, match="secret"):
        read_secret(tmp_path / "secret", None)


async def test_tokens_are_fetched_from_the_server_under_load(no_leaks: None) -> None:
    async with open_fake_server() as server:
        fetch = partial(fetch_tokens, Target(url=server.room_url), 3)
        assert await trio.to_thread.run_sync(fetch) == ("token-of-1", "token-of-2", "token-of-3")


async def test_tokens_are_fetched_over_tls_from_whom_the_load_trusts(no_leaks: None, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with open_fake_server(ssl_context=context) as server:
        for trusting in ({"ca_file": str(tmp_path / "ca.pem")}, {"insecure": True}):
            target = Target(url=server.room_url, **trusting)
            assert await trio.to_thread.run_sync(fetch_tokens, target, 1) == ("token-of-1",)


async def test_answer_that_is_none_is_said_with_its_status(no_leaks: None) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with open_script(script) as port:
        target = Target(url=f"ws://127.0.0.1:{port}/room")
        with pytest.raises(NoToken, match="/tk: HTTP 404 without a token"):
            await trio.to_thread.run_sync(fetch_tokens, target, 1)


async def test_server_without_tokens_is_said(no_leaks: None) -> None:
    async with open_fake_server(FakeServer(refuse_tokens=True)) as server:
        with pytest.raises(NoToken, match="no tokens here"):
            await trio.to_thread.run_sync(fetch_tokens, Target(url=server.room_url), 1)
    with pytest.raises(NoToken):
        await trio.to_thread.run_sync(fetch_tokens, Target(url=server.room_url), 1)
