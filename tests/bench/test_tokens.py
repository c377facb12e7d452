from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from bench.tokens import NoToken, fetch_tokens, read_secret
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


async def test_tokens_are_fetched_from_the_server_under_load(no_leaks: None) -> None:
    async with open_fake_server() as server:
        fetch = partial(fetch_tokens, server.room_url, 3)
        assert await trio.to_thread.run_sync(fetch) == ("token-of-1", "token-of-2", "token-of-3")


async def test_server_without_tokens_is_said(no_leaks: None) -> None:
    async with open_fake_server(FakeServer(refuse_tokens=True)) as server:
        with pytest.raises(NoToken, match="no tokens here"):
            await trio.to_thread.run_sync(fetch_tokens, server.room_url, 1)
    with pytest.raises(NoToken):
        await trio.to_thread.run_sync(fetch_tokens, server.room_url, 1)
