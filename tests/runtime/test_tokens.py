"""The token key of a process: taken, warned about, or refused with one line."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from runtime.failures import SetupError
from runtime.secret import Secret
from runtime.sections import TokenKey
from runtime.tokens import token_authority

LOG = structlog.get_logger()


def test_key_signs_and_checks() -> None:
    tokens = token_authority(TokenKey(secret=Secret(b"k" * 32)), LOG)
    assert tokens.verify(tokens.issue("7", 1000.0), 1000.0).user == "7"


def test_short_key_is_refused_or_warned_about() -> None:
    with pytest.raises(SetupError, match="5 bytes"):
        token_authority(TokenKey(secret=Secret(b"short")), LOG)
    with capture_logs() as lines:
        token_authority(TokenKey(secret=Secret(b"short"), allow_short_key=True), LOG)
    ((line),) = lines
    assert line["log_level"] == "warning"
    assert "5 bytes" in line["event"]


def test_key_that_anybody_may_know_is_refused() -> None:
    key = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
    with pytest.raises(SetupError, match="cannot be used"):
        token_authority(TokenKey(secret=Secret(key)), LOG)
