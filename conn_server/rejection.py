"""The answer to a client that is turned away, and what lets pages read it.  Pure.

Whoever turns away answers with these bytes: the opening, which has no place or drains, and HTTP, which serves
no more connections.  A page sees of an answer what CORS lets it see: without these headers it could tell a
full node from one that is gone as little as when to come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from conn_server.admission import Full
from schema.gojson import encode_string

RETRY_AFTER_S: Final = 5
"""What who is over a limit is told to wait; after a restart of a node all come at once, so not too soon."""
_LIMITS: Final = frozenset({413, 429, 503})


def retry_after_s(status: int) -> int | None:
    """Return what the header Retry-After says in an answer with `status`; None: it has none."""
    return RETRY_AFTER_S if status in _LIMITS else None


def cors_headers(origin: str) -> dict[str, str]:
    """Return the headers that let pages of `origin` call us; "*" is any, "" is none.

    The lists are the Go system's, and what was added to its contract since: Idempotency-Key and Retry-After.
    """
    if not origin:
        return {}
    headers = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Headers": (
            "Content-Type,AccessToken,X-CSRF-Token, Authorization, Token, Idempotency-Key"
        ),
        "Access-Control-Allow-Methods": "POST, GET, OPTIONS",
        "Access-Control-Expose-Headers": (
            "Content-Length, Access-Control-Allow-Origin, Access-Control-Allow-Headers, Content-Type, "
            "Retry-After"
        ),
    }
    if origin != "*":  # browsers refuse the two together (Fetch standard, section 3.3.3)
        headers["Access-Control-Allow-Credentials"] = "true"
    return headers


@dataclass(frozen=True, slots=True)
class Rejection:
    """An answer that ends the connection: status, reason for the counter, text for the peer."""

    status: int
    reason: str
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def encode(self, cors_origin: str, request: bytes) -> bytes:
        """Return the HTTP response; its body is what `/msg` and `/tk` answer errors with.

        Before a page posts with a token its browser asks with OPTIONS, and shows the page nothing of a
        refusal of that: it is answered with 200, and what the page then sends is refused.

        Args:
            cors_origin: whose pages may read it, as in `cors_headers`.
            request: how what is answered begins, as far as it has been read.
        """
        is_preflight = request.startswith(b"OPTIONS ") and bool(cors_origin)
        status = 200 if is_preflight else self.status
        body = b"" if is_preflight else b'{"code":0,"msg":%s}' % encode_string(self.text)
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **cors_headers(cors_origin),
        }
        wait_s = retry_after_s(status)
        if wait_s is not None:
            headers["Retry-After"] = str(wait_s)
        lines = [
            b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()),
            *(f"{name}: {value}".encode() for name, value in headers.items()),
            *(b"%s: %s" % header for header in self.headers),
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    @classmethod
    def of_full(cls, full: Full) -> Rejection:
        """Return the answer to a client that has no place."""
        return cls(full.status, full.reason, full.text)
