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


def test_long_key_is_taken_without_a_word() -> None:
    with capture_logs() as lines:
        token_authority(TokenKey(secret=Secret(b"k" * 32)), LOG)
    assert lines == []


def test_missing_key_is_refused() -> None:
    with pytest.raises(SetupError, match="ROOMCAST_TOKEN_SECRET"):
        token_authority(TokenKey(), LOG)


def test_short_key_is_refused_with_the_way_out_or_warned_about() -> None:
    with pytest.raises(SetupError, match=r"has 31 bytes.*\[token\] allow_short_key = true takes it"):
        token_authority(TokenKey(secret=Secret(b"k" * 31)), LOG)
    with capture_logs() as lines:
        token_authority(TokenKey(secret=Secret(b"k" * 31), allow_short_key=True), LOG)
    ((line),) = lines
    assert line["log_level"] == "warning"
    assert "31 bytes" in line["event"]


def test_empty_key_is_refused_whatever_is_allowed() -> None:
    with pytest.raises(SetupError, match="cannot be used"):
        token_authority(TokenKey(secret=Secret(b""), allow_short_key=True), LOG)


def test_key_that_anybody_may_know_is_refused() -> None:
    key = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
    with pytest.raises(SetupError, match="cannot be used"):
        token_authority(TokenKey(secret=Secret(key)), LOG)
