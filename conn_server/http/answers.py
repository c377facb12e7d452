"""What `/msg` and `/tk` answer (wire.md 1.4), byte for byte.  Pure.

Keys are sorted, strings are as Go's encoding/json writes them, and there is no newline at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schema.access import SIGN_IN_FIRST, Code
from schema.gojson import encode_string

RETRY_AFTER_S: Final = 2
"""What a client over a limit is told to wait."""
BAD_PARAMETERS: Final = "参数错误"
SUCCESS: Final = 1
FAILURE: Final = 0
SIGN_IN_CODE: Final = 1001

_LIMITS: Final = frozenset({413, 429, 503})


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: HTTP status, what `code` says (None: there is no JSON), and the body."""

    status: int
    code: int | None = None
    body: bytes = b""
    content_type: str = "application/json"

    @property
    def retry_after_s(self) -> int | None:
        """What the header Retry-After says, for answers that have one."""
        return RETRY_AFTER_S if self.status in _LIMITS else None


def make_answer(code: int, text: str, *, data: str | None = None, status: int = 200) -> Answer:
    """Return a JSON answer."""
    data_field = b"" if data is None else b'"data":%s,' % encode_string(data)
    return Answer(status, code, b'{"code":%d,%s"msg":%s}' % (code, data_field, encode_string(text)))


SUCCEEDED: Final = make_answer(SUCCESS, "suc")
NO_PARAMETERS: Final = make_answer(FAILURE, BAD_PARAMETERS)
SIGN_IN: Final = make_answer(SIGN_IN_CODE, SIGN_IN_FIRST)
TOO_MANY_CONNECTIONS: Final = make_answer(FAILURE, "too many connections, try again later", status=503)


def refusal(code: Code, text: str) -> Answer:
    """Return the answer to a request that was understood and refused."""
    status = int(code) if code in _LIMITS else 200
    return make_answer(FAILURE, text, status=status)


def cors_headers(origin: str) -> dict[str, str]:
    """Return the headers that let pages of `origin` call us; "*" is any, "" is none."""
    if not origin:
        return {}
    headers = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Headers": "Content-Type,AccessToken,X-CSRF-Token, Authorization, Token",
        "Access-Control-Allow-Methods": "POST, GET, OPTIONS",
        "Access-Control-Expose-Headers": (
            "Content-Length, Access-Control-Allow-Origin, Access-Control-Allow-Headers, Content-Type"
        ),
    }
    if origin != "*":  # browsers refuse the two together (Fetch standard, section 3.3.3)
        headers["Access-Control-Allow-Credentials"] = "true"
    return headers
