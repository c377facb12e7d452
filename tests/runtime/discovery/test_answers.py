from __future__ import annotations

import pytest

from runtime.discovery.answers import (
    Change,
    EtcdError,
    Granted,
    Kept,
    Listed,
    decoded,
    refusal,
    watched,
)


def test_integers_are_strings_and_zeros_are_left_out() -> None:
    granted = decoded(b'{"header":{"revision":"3"},"ID":"7587863095245672708","TTL":"5"}', Granted)
    assert (granted.lease, granted.ttl) == (7587863095245672708, 5)
    assert decoded(b'{"result":{"header":{},"ID":"1"}}\n', Kept).result.ttl == 0
    listed = decoded(
        b'{"header":{"revision":"9"},"kvs":[{"key":"YQ=="},{"key":"Yg==","value":"MQ=="}]}', Listed
    )
    assert listed.header.revision == 9
    assert [(pair.key, pair.value) for pair in listed.kvs] == [(b"a", b""), (b"b", b"1")]


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"[]", b"{}", b'{"header":{"revision":"x"}}', b'{"header":{},"kvs":[{"key":"?"}]}'],
)
def test_what_is_not_etcds_is_garbage_and_an_endpoints(content: bytes) -> None:
    with pytest.raises(EtcdError, match="not etcd's answer") as caught:
        decoded(content, Listed)
    assert caught.value.reason == "garbage"
    assert caught.value.is_endpoints


@pytest.mark.parametrize(
    ("status", "content", "reason", "code", "is_endpoints"),
    [
        (
            404,
            b'{"error":"etcdserver: requested lease not found","message":"","code":5}',
            "refused",
            5,
            False,
        ),
        (403, b'{"error":"etcdserver: permission denied","code":7}', "refused", 7, False),
        (401, b'{"error":"etcdserver: invalid auth token","code":16}', "token", 16, False),
        (400, b'{"error":"etcdserver: user name is empty","code":3}', "token", 3, False),
        (503, b'{"error":"etcdserver: no leader","code":14}', "unavailable", 14, True),
        (500, b"{}", "unavailable", 0, True),
        (502, b"<html>", "garbage", 0, True),
    ],
)
def test_refusals_are_the_clusters_or_the_endpoints(
    status: int, content: bytes, reason: str, code: int, is_endpoints: bool
) -> None:
    error = refusal(status, content)
    assert (error.reason, error.code, error.is_endpoints) == (reason, code, is_endpoints)
    assert str(error)


def test_line_of_a_watch_is_its_changes() -> None:
    assert watched(b'{"result":{"header":{"revision":"5"},"created":true}}', 5) == []
    events = b'[{"kv":{"key":"YQ==","value":"MQ=="}},{"type":"DELETE","kv":{"key":"Yg=="}}]'
    assert watched(b'{"result":{"events":%b}}' % events, 5) == [Change(b"a", b"1"), Change(b"b", None)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"result":{"canceled":true,"compact_revision":"7"}}', "compacted"),
        (b'{"result":{"canceled":true,"cancel_reason":"etcdserver: mvcc"}}', "canceled"),
        (b'{"result":{"canceled":true,"cancel_reason":"etcdserver: invalid auth token"}}', "token"),
        (b'{"error":{"grpc_code":14,"message":"transport is closing"}}', "unavailable"),
        (b'{"error":{"grpc_code":7,"message":"no"}}', "refused"),
        (b'{"result":{"header":{"revision":"4"},"created":true}}', "wiped"),
        (b'{"error":{}}', "unavailable"),
        (b"{}", "garbage"),
        (b"nonsense", "garbage"),
    ],
)
def test_watch_ends_with_its_reason(line: bytes, reason: str) -> None:
    with pytest.raises(EtcdError) as caught:
        watched(line, 5)
    assert caught.value.reason == reason
