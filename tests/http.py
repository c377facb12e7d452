"""HTTP in clear, for tests."""

from __future__ import annotations

import ssl
from typing import Any, Final

import httpx2

# Nobody is trusted and nobody asked: otherwise each client reads the certificates of all authorities of
# the world, which takes 50 ms of CPU.
_NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def http_client(**options: Any) -> httpx2.AsyncClient:
    """Return a client for servers on loopback; `options` are httpx2's."""
    return httpx2.AsyncClient(trust_env=False, verify=_NO_AUTHORITIES, **options)
