"""TLS contexts from the PEM files that settings name; what is wrong with a file is the operator's to mend.

Nothing below TLS 1.2.  A key must not be encrypted: nobody is there to be asked for a passphrase.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runtime.failures import SetupError, setting_up

NO_PEM: Final = "no PEM that can be used (a key must not be encrypted)"
NO_PASSPHRASE: Final = b""
"""What an encrypted key is tried with, so that OpenSSL does not ask at the terminal."""


@contextmanager
def reading_pem(what: str) -> Iterator[None]:
    """Turn what is wrong with PEM files into a `SetupError` that begins with `what`.

    Raises:
        SetupError: a file cannot be read, is not what it should be, or does not belong to the other.
    """
    with setting_up(what):
        try:
            yield
        except ssl.SSLError as exc:
            raise SetupError(f"{what}: {exc.reason or NO_PEM}") from exc


def client_context(
    section: str, *, ca: str | Path, certificate: str | Path, key: str | Path
) -> ssl.SSLContext:
    """Return a client's context.

    Args:
        section: of the settings that name the files, for the error.
        ca: `caFile`, who must have signed the server's certificate; empty: whom the system trusts.
        certificate: `certFile`, own chain, where the server asks for one; or empty.
        key: `keyFile`, its private key.

    Raises:
        SetupError: a file is not what it should be.
    """
    with reading_pem(f"{section} caFile {ca}"):
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca or None)
    if certificate:
        _load_chain(context, section, certificate, key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def server_context(
    section: str, certificate: str | Path, key: str | Path, *, client_ca: str | Path = ""
) -> ssl.SSLContext:
    """Return a server's context.

    Args:
        section: of the settings that name the files, for the error.
        certificate: `certFile`, own chain.
        key: `keyFile`, its private key.
        client_ca: `caFile`, who must have signed the clients' certificates; empty: clients need none.

    Raises:
        SetupError: a file is not what it should be.
    """
    with reading_pem(f"{section} caFile {client_ca}"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca or None)
    _load_chain(context, section, certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED if client_ca else ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load_chain(context: ssl.SSLContext, section: str, certificate: str | Path, key: str | Path) -> None:
    with reading_pem(f"{section} certFile {certificate}, keyFile {key}"):
        context.load_cert_chain(certificate, key, NO_PASSPHRASE)
