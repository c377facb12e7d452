from __future__ import annotations

from pathlib import Path

import pytest

from logic_server.settings import LogicSettings
from runtime.queue.nsq import NsqOptions
from runtime.sections import Etcd
from runtime.settings import SettingsError, describe, load
from schema.message import ENVELOPE_BYTES, MAX_BODY_BYTES, Level, Message
from tests.runtime.queue.unreachable import UNREACHABLE

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


@pytest.mark.parametrize(("given", "message"), UNREACHABLE)
def test_queue_that_could_not_be_reached_is_refused(given: dict[str, object], message: str) -> None:
    """Each of these once ended in a traceback, or in a service that ran and did nothing."""
    with pytest.raises(SettingsError) as caught:
        load(LogicSettings, None, {}, given)
    assert message in str(caught.value)


def test_message_over_what_the_queue_takes_is_refused_at_the_start_not_one_by_one() -> None:
    most = MAX_BODY_BYTES - ENVELOPE_BYTES
    assert load(LogicSettings, None, {}, {"rules.maxData": most}).settings.rules.max_data_bytes == most
    largest = Message("r" * 128, Level.IMPORTANT, b"x" * most, 2**64 - 1, 2**63 - 1, "9" * 20, 2**62)
    assert len(largest.encode()) <= NsqOptions().max_message_bytes
    for much in (most + 1, "2MiB"):
        with pytest.raises(SettingsError, match=r"rules\.maxData: must be 512 bytes under 1MiB at least"):
            load(LogicSettings, None, {}, {"rules.maxData": much})


def test_secret_for_nsqd_is_text(tmp_path: Path) -> None:
    (tmp_path / "nsq_auth_secret").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"nsq\.authSecret: nsq_auth_secret must be UTF-8") as caught:
        load(LogicSettings, None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert "xff" not in str(caught.value)


def test_unknown_section_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean"):
        load(LogicSettings, None, {}, {"nsqd.addr": "a:1"})
