"""What `/msg` and `/tk` answer (wire.md 1.2, HTTP), byte for byte.  Pure.

Keys are sorted, strings are as Go's encoding/json writes them, and there is no newline at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from conn_server.rejection import retry_after_s
from schema.access import SIGN_IN_FIRST, Code
from schema.gojson import encode_string

BAD_PARAMETERS: Final = "参数错误"
SUCCESS: Final = 1
FAILURE: Final = 0
SIGN_IN_CODE: Final = 1001


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
        return retry_after_s(self.status)


def make_answer(code: int, text: str, *, data: str | None = None, status: int = 200) -> Answer:
    """Return a JSON answer."""
    data_field = b"" if data is None else b'"data":%s,' % encode_string(data)
    return Answer(status, code, b'{"code":%d,%s"msg":%s}' % (code, data_field, encode_string(text)))


SUCCEEDED: Final = make_answer(SUCCESS, "suc")
NO_PARAMETERS: Final = make_answer(FAILURE, BAD_PARAMETERS)
SIGN_IN: Final = make_answer(SIGN_IN_CODE, SIGN_IN_FIRST)


def refusal(code: Code, text: str) -> Answer:
    """Return the answer to a request that was understood and refused."""
    status = int(code) if retry_after_s(code) is not None else 200
    return make_answer(FAILURE, text, status=status)
