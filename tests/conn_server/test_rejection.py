from __future__ import annotations

from conn_server.admission import Full
from conn_server.rejection import Rejection, cors_headers


def test_rejection_is_json_with_a_length_that_pages_may_read() -> None:
    head, _, body = (
        Rejection.of_full(Full(429, "address", "zu <viele>")).encode("*", b"").partition(b"\r\n\r\n")
    )
    assert body == b'{"code":0,"msg":"zu \\u003cviele\\u003e"}'  # as /msg and /tk write it
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 429 Too Many Requests",
        b"Content-Type: application/json",
        b"Content-Length: 39",
        b"Connection: close",
        *(f"{name}: {value}".encode() for name, value in cors_headers("*").items()),
        b"Retry-After: 5",
    ]


def test_rejection_of_what_would_be_refused_again_does_not_ask_to_come_back() -> None:
    answer = Rejection(426, "bad_upgrade", "no", ((b"Sec-WebSocket-Version", b"13"),)).encode(
        "", b"GET /room"
    )
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in answer
    assert b"Retry-After" not in answer
    assert b"Access-Control" not in answer


def test_browser_that_asks_for_its_page_is_let_ask_and_then_refused() -> None:
    """The page would hear of a network error, and not when to come back."""
    full = Rejection.of_full(Full(503, "connections", "full"))
    head, _, body = full.encode("*", b"OPTIONS /msg HTTP/1.1\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nAccess-Control-Allow-Headers: " in head
    assert b"\r\nConnection: close" in head
    assert b"\r\nRetry-After" not in head
    assert body == b""
    assert full.encode("*", b"POST /msg HTTP/1.1\r\n").startswith(b"HTTP/1.1 503 ")
    assert full.encode("", b"OPTIONS /msg HTTP/1.1\r\n").startswith(b"HTTP/1.1 503 ")


def test_credentials_are_never_allowed_to_any_origin() -> None:
    assert cors_headers("*") == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Headers": (
            "Content-Type,AccessToken,X-CSRF-Token, Authorization, Token, Idempotency-Key"
        ),
        "Access-Control-Allow-Methods": "POST, GET, OPTIONS",
        "Access-Control-Expose-Headers": (
            "Content-Length, Access-Control-Allow-Origin, Access-Control-Allow-Headers, Content-Type, "
            "Retry-After"
        ),
    }
    one = cors_headers("https://chat.example")
    assert one["Access-Control-Allow-Origin"] == "https://chat.example"
    assert one["Access-Control-Allow-Credentials"] == "true"
    assert cors_headers("") == {}
