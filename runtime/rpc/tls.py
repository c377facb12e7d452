"""TLS and mTLS between services, as `[tls]` says: HTTP/2 by ALPN."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from runtime.sections import ClientTls, PeerTls, ServerTls
from runtime.tls import client_context, server_context

SECTION: Final = "[tls]"


def serving_tls(tls: ServerTls | PeerTls) -> ssl.SSLContext | None:
    """Return what a service serves gRPC with, None for cleartext.

    Raises:
        SetupError: a file is not what it should be.
    """
    if not tls.is_on:
        return None
    return server_tls(
        Path(tls.cert_file),
        Path(tls.key_file),
        client_ca=Path(tls.ca_file) if tls.client_auth else None,
    )


def dialing_tls(tls: ClientTls | PeerTls) -> ssl.SSLContext | None:
    """Return what a service dials others with, None for cleartext.

    Raises:
        SetupError: a file is not what it should be.
    """
    if not tls.is_on:
        return None
    return client_tls(
        ca=Path(tls.ca_file) if tls.ca_file else None,
        certificate=Path(tls.cert_file) if tls.cert_file else None,
        key=Path(tls.key_file) if tls.key_file else None,
    )


def server_tls(certificate: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """Return a server's context.

    Args:
        certificate: chain in PEM.
        key: its private key in PEM.
        client_ca: who must have signed the clients' certificates; None: clients need none.

    Raises:
        SetupError: a file is not what it should be.
    """
    return _for_http2(server_context(SECTION, certificate, key, client_ca=client_ca or ""))


def client_tls(
    *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return a client's context.

    Args:
        ca: who must have signed the server's certificate; None: whom the system trusts.
        certificate: own chain, where the server asks for one.
        key: its private key.

    Raises:
        SetupError: a file is not what it should be.
    """
    return _for_http2(client_context(SECTION, ca=ca or "", certificate=certificate or "", key=key or ""))


def _for_http2(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["h2"])
    return context
