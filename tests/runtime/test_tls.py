from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.failures import SetupError
from runtime.tls import client_context, server_context
from tests.runtime.rpc.certificates import Certificates, make_certificates

ENCRYPTED = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,000102030405060708090A0B0C0D0E0F"


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


def serving(files: Certificates) -> ssl.SSLContext:
    return server_context("[tls]", files.server, files.server_key, client_ca=files.ca)


def dialing(files: Certificates) -> ssl.SSLContext:
    return client_context("[nsq]", ca=files.ca, certificate=files.server, key=files.server_key)


def test_server_asks_for_certificates_only_where_an_authority_is_named(files: Certificates) -> None:
    assert serving(files).verify_mode is ssl.CERT_REQUIRED
    assert server_context("[tls]", files.server, files.server_key).verify_mode is ssl.CERT_NONE


def test_client_checks_name_and_authority_whatever_is_given(files: Certificates) -> None:
    for context in (dialing(files), client_context("[nsq]", ca="", certificate="", key="")):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


def test_nothing_below_tls_1_2_is_spoken(files: Certificates) -> None:
    assert serving(files).minimum_version is dialing(files).minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(("make", "section"), [(serving, "[tls]"), (dialing, "[nsq]")])
@pytest.mark.parametrize(
    ("bad", "keys"),
    [("ca", "caFile {0}/ca.pem"), ("server", "certFile {0}/server.pem, keyFile {0}/skey.pem")],
)
def test_file_that_is_missing_or_nonsense_is_said_in_one_line(
    make: Callable[[Certificates], ssl.SSLContext],
    section: str,
    bad: str,
    keys: str,
    files: Certificates,
    tmp_path: Path,
) -> None:
    path = tmp_path / f"{bad}.pem"
    where = f"{section} {keys.format(tmp_path)}: "
    path.write_text("nonsense")
    with pytest.raises(SetupError) as caught:
        make(files)
    assert str(caught.value).startswith(where)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(SetupError) as caught:
        make(files)
    assert str(caught.value) == f"{where}No such file or directory"


def test_key_of_another_certificate_is_refused(files: Certificates) -> None:
    with pytest.raises(SetupError, match="KEY_VALUES_MISMATCH"):
        server_context("[tls]", files.server, files.client_key)


def test_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(files: Certificates) -> None:
    head, body = files.server_key.read_text().split("\n", 1)
    files.server_key.write_text(f"{head}\n{ENCRYPTED}\n\n{body}")
    with pytest.raises(SetupError, match=r"^\[tls\] certFile .*, keyFile .*: no PEM that can be used"):
        serving(files)
