"""Whom to trust at the other end of TLS: WebSockets, `POST /msg` and `/tk` alike."""

from __future__ import annotations

import ssl


def tls_context(ca_file: str, *, is_checked: bool) -> ssl.SSLContext:
    """Return the client's end of TLS.

    Args:
        ca_file: whom to trust; empty: the system's.
        is_checked: whether the certificate has to be good, and the server's.

    Raises:
        ValueError: the file holds no certificates.
        OSError: it cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except ssl.SSLError as exc:
        raise ValueError(f"{ca_file}: no certificates in PEM: {exc}") from exc
    if not is_checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
