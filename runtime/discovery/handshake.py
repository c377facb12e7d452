"""Close what httpcore forgets: the socket of a TLS handshake that is cancelled, by a deadline or a stop.

Left to the garbage collector, each attempt at an endpoint that accepts and stays silent would cost a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class _Stream(Protocol):
    async def aclose(self) -> None: ...


class HandshakeGuard:
    """The `trace` extension of one request, which httpx2 calls with all that happens to it."""

    def __init__(self) -> None:
        self._unguarded: _Stream | None = None

    async def __call__(self, event: str, told: Mapping[str, Any]) -> None:
        """Take note of the socket; close it if the handshake fails, for whatever reason."""
        if event == "connection.connect_tcp.complete":
            self._unguarded = told["return_value"]
        elif event == "connection.start_tls.failed" and self._unguarded is not None:
            # Cancelled as we may be, it is closed before that is raised; and again is no harm.
            await self._unguarded.aclose()
