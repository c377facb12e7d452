"""Ask over HTTP somebody who may be broken: no answer without a bound, and no file that is left behind.

The one who asks has the client, and says what went wrong in its own words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import httpx2
import trio


class AnswerTooLarge(Exception):
    """An answer that goes on after what an honest one could have."""


class _Stream(Protocol):
    async def aclose(self) -> None: ...


class _HandshakeGuard:
    """The `trace` extension of one request, which httpx2 calls with all that happens to it.

    It closes what httpcore forgets: the socket of a TLS handshake that is cancelled, by a deadline or a stop.
    Left to the garbage collector, each attempt at one who accepts and stays silent would cost a file.
    """

    def __init__(self) -> None:
        self._unguarded: _Stream | None = None

    async def __call__(self, event: str, told: Mapping[str, Any]) -> None:
        """Take note of the socket; close it if the handshake fails, for whatever reason."""
        if event == "connection.connect_tcp.complete":
            self._unguarded = told["return_value"]
        elif event == "connection.start_tls.failed" and self._unguarded is not None:
            # Cancelled as we may be, it is closed before that is raised; and again is no harm.
            await self._unguarded.aclose()


@asynccontextmanager
async def open_answer(
    client: httpx2.AsyncClient, request: httpx2.Request, deadline_s: float
) -> AsyncIterator[tuple[httpx2.Response, AsyncGenerator[bytes, None]]]:
    """Send `request`; give the head of its answer, and the rest in pieces, until the context is left.

    Raises:
        httpx2.HTTPError, UnicodeError: no answer; the first also while the pieces are read.
        trio.TooSlowError: no head within `deadline_s`.
    """
    request.extensions["trace"] = _HandshakeGuard()
    with trio.fail_after(deadline_s):
        response = await client.send(request, stream=True)
    pieces = response.aiter_bytes()
    try:
        yield response, pieces
    finally:
        try:
            await _unwind(pieces)
        finally:
            await response.aclose()


async def read_whole(pieces: AsyncGenerator[bytes, None], most_bytes: int) -> bytes:
    """Return all pieces together.  The caller has the deadline.

    Raises:
        AnswerTooLarge: there are more than `most_bytes`.
        httpx2.HTTPError: the connection has ended before the answer.
    """
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > most_bytes:
            raise AnswerTooLarge(f"an answer of over {most_bytes} bytes")
    return bytes(content)


async def _unwind(pieces: AsyncGenerator[bytes, None]) -> None:
    """End the generators of httpx2 in a row: closing the outer one would leave the inner ones to the
    garbage collector, of which Trio complains."""
    with trio.CancelScope() as scope, suppress(httpx2.HTTPError):
        scope.cancel()
        async for _ in pieces:
            pass
