"""Close codes: each is explained, fits into a close frame, and may be sent where it is."""

from __future__ import annotations

import json

import pytest

from schema.closing import CLOSINGS, CloseCode, draining_reason

NEVER_SENT = {CloseCode.NO_STATUS, CloseCode.ABNORMAL}  # RFC 6455 section 7.4.1: reserved for the API


@pytest.mark.parametrize("code", CloseCode)
def test_code_is_explained(code: CloseCode) -> None:
    assert len(CLOSINGS[code].reason.encode()) <= 123


@pytest.mark.parametrize("code", sorted(set(CloseCode) - NEVER_SENT))
def test_code_may_stand_in_a_close_frame(code: CloseCode) -> None:
    assert 1000 <= code <= 1003 or 1007 <= code <= 1011 or 4000 <= code <= 4999


@pytest.mark.parametrize(
    ("code", "reconnect"),
    [
        (CloseCode.GOING_AWAY, True),
        (CloseCode.TOKEN_EXPIRED, True),
        (CloseCode.SLOW_CONSUMER, True),
        (CloseCode.ABNORMAL, True),
        (CloseCode.REFUSED, False),
        (CloseCode.KICKED, False),
        (CloseCode.PROTOCOL_ERROR, False),
    ],
)
def test_client_knows_whether_coming_back_can_help(code: CloseCode, reconnect: bool) -> None:
    assert CLOSINGS[code].reconnect is reconnect


def test_draining_tells_when_to_come_back() -> None:
    assert draining_reason(2000) == '{"retry_after_ms":2000}'
    assert json.loads(draining_reason(10**9)) == {"retry_after_ms": 10**9}
