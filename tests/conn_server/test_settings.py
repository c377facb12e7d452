from __future__ import annotations

from pathlib import Path

import pytest

from conn_server.settings import RESERVED_FDS, ConnSettings, connection_limit
from runtime.sections import Etcd
from runtime.settings import SettingsError, describe, load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deploy" / "examples" / "conn.toml"
GO_EXAMPLE = ROOT / "tests" / "vectors" / "go" / "conn-example.toml"


def test_example_shows_every_key_with_its_default() -> None:
    loaded = load(ConnSettings, EXAMPLE, {})
    assert loaded.settings == ConnSettings()
    unsaid = [line for line in describe(loaded).splitlines() if line.endswith("# default")]
    assert unsaid == []


def test_go_systems_example_starts_us_unchanged() -> None:
    loaded = load(ConnSettings, GO_EXAMPLE, {})
    assert loaded.settings == ConnSettings(etcd=Etcd(addrs=("127.0.0.1:2379",)))
    assert loaded.without_meaning == (
        "bucket.routineAmount",
        "bucket.routineSize",
        "rpc.prefix",
        "rpc.jobRpcPrefix",
    )


def test_defaults_are_the_contracts() -> None:
    settings = ConnSettings()
    websocket = settings.websocket
    assert websocket.bind == ":8081"
    assert (websocket.sign_in_timeout_s, websocket.stall_timeout_s) == (5.0, 20.0)
    assert (websocket.heartbeat_timeout_s, websocket.heartbeat_timeout_v1_s) == (600.0, 60.0)
    assert (websocket.max_frame_bytes, websocket.max_data_bytes) == (65536, 61440)
    assert settings.bucket.max_connections == 32 * 1024
    assert settings.bucket.rooms == 1024
    assert settings.http.codes == "readme"
    assert not settings.token.issue
    assert not settings.rules.post_anywhere
    assert settings.registration.service_name == "room_conn"
    assert settings.registration.listen_address == "127.0.0.1:6000"
    assert settings.rpc.logic_service == "room_logic"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"websocket.path": "room"}, "websocket.path: expected a path of its own"),
        ({"websocket.path": "/msg"}, "websocket.path: expected a path of its own"),
        *(
            ({"websocket.path": path}, "websocket.path: expected a path of its own")
            for path in ("", "/room<", "/room/<x>", "/r oom", "/room#x", "/röom", "/r%20m", "/r?x", "/r\n")
        ),
        ({"websocket.path": "/index.html"}, "websocket.path: expected a path of its own"),
        ({"websocket.path": "/a/../room"}, "websocket.path: clients take . and .. out of a path"),
        ({"websocket.tlsCert": "a.pem"}, "tlsCert and tlsKey"),
        ({"websocket.maxData": "64KiB"}, "websocket.maxData: must be 512 bytes under maxMessage"),
        ({"websocket.maxFrame": "65KiB"}, "websocket.maxFrame: must not be over maxMessage"),
        ({"websocket.outboxSoft": "2MiB"}, "websocket.outboxSoft: must not be over outboxHard"),
        ({"websocket.outboxSoft": 1, "websocket.outboxHard": "60KiB"}, "websocket.outboxHard: must hold"),
        ({"websocket.origins": ["chat.example"]}, "websocket.origins: expected origins such as"),
        ({"websocket.origins": ["https://a/b"]}, "websocket.origins: expected origins such as"),
        *(
            (
                {"websocket.origins": ["https://ok.example", origin]},
                "websocket.origins: expected origins such as",
            )
            for origin in ("https://[", "https://a:x", "https://me@a", "https://", "//a", "https://:1")
        ),
        *(
            (
                {"websocket.origins": [origin]},
                f"websocket.origins: browsers send 'https://chat.example', got {origin!r}",
            )
            for origin in (
                "https://Chat.example",
                "HTTPS://chat.example",
                "https://chat.example:443",
                "https://chat.example:",
                "https://chat.example?",
            )
        ),
        ({"websocket.origins": ["https://röom.example"]}, "websocket.origins: browsers send a host in ASCII"),
        (
            {"http.corsOrigin": "https://Chat.example"},
            "http.corsOrigin: browsers send 'https://chat.example'",
        ),
        ({"http.corsOrigin": "https://chat.example/"}, "http.corsOrigin: expected origins such as"),
        ({"srv.listenAddr": ":6000"}, "srv.listenAddr: expected an address with a host"),
        ({"http.codes": "rust"}, "http.codes"),
        ({"websocket.signInTimeout": "0s"}, "websocket.signInTimeout"),
        ({"token.secret": "x"}, "ROOMCAST_TOKEN_SECRET"),
        ({"tls.certFile": "a.pem"}, "tls.certFile and keyFile: one needs the other"),
        ({"tls.caFile": "c.pem"}, "tls.caFile: needs certFile and keyFile"),
        ({"tls.clientAuth": True}, "tls.clientAuth: needs caFile"),
        ({"rules.join": ["lobby"]}, 'rules.join: needs [token] verify = "local"'),
    ],
)
def test_contradictions_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(ConnSettings, None, {}, given)
    assert message in str(caught.value)


def test_rooms_for_tokens_that_name_none_are_taken_where_tokens_are_checked_here() -> None:
    given = {"rules.join": ["lobby"], "token.verify": "local"}
    assert load(ConnSettings, None, {}, given).settings.rules.join == ("lobby",)


@pytest.mark.parametrize("path", ["/room", "/room/", "/a/b.c/d", "/~me/chat;v=1", "/room:1@x"])
def test_path_of_visible_characters_is_taken(path: str) -> None:
    assert load(ConnSettings, None, {}, {"websocket.path": path}).settings.websocket.path == path


def test_origin_allow_list_is_taken() -> None:
    origins = ["https://chat.example", "http://localhost:8080", "http://[::1]:443", "capacitor://localhost"]
    settings = load(ConnSettings, None, {}, {"websocket.origins": origins}).settings
    assert settings.websocket.origins == tuple(origins)


def test_connection_limit_is_what_was_asked_for_if_the_files_suffice() -> None:
    assert connection_limit(1000, 1000 + RESERVED_FDS) == (1000, None)


def test_connection_limit_is_capped_by_open_files_with_a_warning() -> None:
    limit, warning = connection_limit(32768, 1024)
    assert limit == 1024 - RESERVED_FDS
    assert warning is not None
    assert "32768 connections" in warning
    assert f"raise it to {32768 + RESERVED_FDS}" in warning


def test_connection_limit_leaves_one_at_least() -> None:
    assert connection_limit(10, 64)[0] == 1
