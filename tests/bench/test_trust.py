from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from bench.trust import tls_context


def test_certificates_are_checked_against_the_file_or_not_at_all(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    checked = tls_context(str(tmp_path / "ca.pem"), is_checked=True)
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert checked.get_ca_certs()
    assert tls_context("", is_checked=False).verify_mode == ssl.CERT_NONE


def test_file_without_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ValueError, match=r"ca\.pem: no certificates"):
        tls_context(str(tmp_path / "ca.pem"), is_checked=True)
