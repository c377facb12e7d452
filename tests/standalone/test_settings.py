from __future__ import annotations

from pathlib import Path

import pytest

from runtime.settings import SettingsError, describe, load
from standalone.settings import StandaloneSettings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deploy" / "examples" / "standalone.toml"


def test_example_shows_every_key_with_its_default() -> None:
    loaded = load(StandaloneSettings, EXAMPLE, {})
    assert loaded.settings == StandaloneSettings()
    unsaid = [line for line in describe(loaded).splitlines() if line.endswith("# default")]
    assert unsaid == []


def test_it_is_open_to_this_machine_alone_and_ready_to_try() -> None:
    settings = StandaloneSettings()
    assert settings.conn.websocket.bind == "127.0.0.1:8081"
    assert settings.conn.token.issue
    assert settings.conn.http.demo
    assert settings.drain is settings.conn.drain


def test_demo_settings_are_taken() -> None:
    given = {"conn.websocket.bind": "127.0.0.1:0", "conn.admin.bind": "127.0.0.1:0", "log.level": "warning"}
    settings = load(StandaloneSettings, None, {}, given).settings
    assert settings.conn.websocket.bind == "127.0.0.1:0"
    assert settings.conn.token.issue
    assert settings.log.level == "warning"


def test_one_secret_serves_both_services() -> None:
    settings = load(StandaloneSettings, None, {"ROOMCAST_TOKEN_SECRET": "x" * 32}).settings
    assert settings.token.require_key() == b"x" * 32


@pytest.mark.parametrize("key", ["job.nsq.addr", "logic.nsq.caFile", "conn.tls.certFile", "job.tls.caFile"])
def test_what_only_separate_processes_need_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match=rf"{key} is not a setting"):
        load(StandaloneSettings, None, {}, {key: "a:1"})
