from __future__ import annotations

from pathlib import Path

import pytest

from logic_server.settings import LogicSettings
from runtime.sections import Etcd
from runtime.settings import SettingsError, describe, load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deploy" / "examples" / "logic.toml"
GO_EXAMPLE = ROOT / "tests" / "vectors" / "go" / "logic-example.toml"


def test_example_shows_every_key_with_its_default() -> None:
    loaded = load(LogicSettings, EXAMPLE, {})
    assert loaded.settings == LogicSettings()
    unsaid = [line for line in describe(loaded).splitlines() if line.endswith("# default")]
    assert unsaid == []


def test_go_systems_example_starts_us_unchanged() -> None:
    loaded = load(LogicSettings, GO_EXAMPLE, {})
    assert loaded.settings == LogicSettings(etcd=Etcd(addrs=("127.0.0.1:2379",)))
    assert loaded.without_meaning == ()


def test_defaults_are_the_contracts() -> None:
    settings = LogicSettings()
    assert settings.registration.service_name == "room_logic"
    assert settings.registration.listen_address == "127.0.0.1:6001"
    assert settings.nsq.addresses == ("127.0.0.1:4150",)
    assert settings.nsq.topic == "chat_room"


def test_token_secret_is_read_and_masked() -> None:
    loaded = load(LogicSettings, None, {"ROOMCAST_TOKEN_SECRET": "very private secret of 32 bytes!"})
    assert loaded.settings.token.require_key() == b"very private secret of 32 bytes!"
    assert "private" not in describe(loaded) + repr(loaded)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls.clientAuth": True}, "tls.clientAuth: needs caFile"),
        ({"tls.serverName": "x"}, "tls.serverName is not a setting"),  # it dials nobody
        ({"nsq.caFile": "c.pem"}, "nsq.tls: must be true where caFile"),
        ({"nsq.tls": True, "nsq.keyFile": "b.pem"}, "nsq.certFile and keyFile: one needs the other"),
    ],
)
def test_contradictions_about_tls_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(LogicSettings, None, {}, given)
    assert message in str(caught.value)


def test_unknown_section_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean"):
        load(LogicSettings, None, {}, {"nsqd.addr": "a:1"})
