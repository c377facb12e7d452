from __future__ import annotations

import pytest

from runtime.discovery.entries import entry, read_entry, service_prefix

PREFIX = b"/room_conn/"


def test_key_and_value_are_the_go_systems_to_the_byte() -> None:
    assert entry("room_conn", "127.0.0.1:6000") == (
        b"/room_conn/127.0.0.1:6000",
        b'{"name":"room_conn","addr":"127.0.0.1:6000","version":"","weight":0}',
    )
    assert service_prefix("room_conn") == PREFIX


@pytest.mark.parametrize(
    ("key", "value", "address", "unreadable"),
    [
        (b"a:1", b'{"name":"x","addr":"b:2","version":"","weight":0}', "b:2", None),
        (b"a:1", b'{"addr":"b:2","more":[]}', "b:2", None),
        (b"[::1]:1", b'{"addr":"[::1]:2"}', "[::1]:2", None),
        (b"a:1", b"", "a:1", "value"),
        (b"a:1", b"{", "a:1", "value"),
        (b"a:1", b"[]", "a:1", "value"),
        (b"a:1", b'{"addr":5}', "a:1", "value"),
        (b"a:1", b'{"addr":""}', "a:1", "value"),
        (b"a:1", b'{"addr":":6000"}', "a:1", "value"),
        (b"a:1", b'{"addr":"b:0"}', "a:1", "value"),
        (b"a:1", b'{"addr":"b..c:6000"}', "a:1", "value"),
        (b"a:1", b'{"addr":"\xff:1"}', "a:1", "value"),
        (b"", b"", None, "key"),
        (b"a", b"{}", None, "key"),
        (b"\xff:1", b"{}", None, "key"),
        (b"x/a:1", b"{}", None, "key"),
    ],
)
def test_address_is_read_from_the_value_or_else_from_the_key(
    key: bytes, value: bytes, address: str | None, unreadable: str | None
) -> None:
    assert read_entry(PREFIX, PREFIX + key, value) == (address, unreadable)


def test_what_is_written_is_read() -> None:
    assert read_entry(PREFIX, *entry("room_conn", "[fe80::1]:6000")) == ("[fe80::1]:6000", None)
