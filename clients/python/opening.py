"""From an address to an open WebSocket: TCP, TLS, the upgrade; every step under one deadline."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from clients.python.errors import ConnectFailed

TcpStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def open_stream(url: str, ssl_context: ssl.SSLContext | None, deadline: float) -> TcpStream:
    """Connect to the host of `url`, with TLS for wss://; the caller closes the stream.

    Raises:
        ConnectFailed: nobody there, not to be trusted, or not before `deadline` (Trio's clock).
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ConnectFailed(f"{url}: not a ws:// or wss:// address")
    try:
        with trio.fail_at(deadline):
            if parts.scheme == "ws":
                return await trio.open_tcp_stream(parts.hostname, parts.port or 80)
            return await _open_tls_stream(parts.hostname, parts.port or 443, ssl_context)
    except trio.TooSlowError:
        raise ConnectFailed(f"{url}: no connection in time") from None
    except (OSError, trio.BrokenResourceError) as exc:
        raise ConnectFailed(f"{url}: {exc.__cause__ or exc}") from exc


async def _open_tls_stream(
    host: str, port: int, ssl_context: ssl.SSLContext | None
) -> trio.SSLStream[trio.SocketStream]:
    stream = await trio.open_ssl_over_tcp_stream(host, port, https_compatible=True, ssl_context=ssl_context)
    try:
        # Here, and not with the first byte: a certificate that is not trusted is an error of connecting.
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def upgrade(
    nursery: trio.Nursery, stream: TcpStream, url: str, max_frame_bytes: int, deadline: float
) -> WebSocketConnection:
    """Make a WebSocket of `stream`; its reader lives in `nursery`.

    Raises:
        ConnectFailed: the connection ended, or no answer came before `deadline`.
        trio_websocket.HandshakeError: in `nursery`, when the server refuses.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    scope = trio.CancelScope(deadline=deadline)
    with scope:
        return await wrap_client_stream(
            nursery,
            _Watched(stream, scope),  # type: ignore[arg-type]  # only its Stream methods are used
            parts.netloc.rpartition("@")[2],
            target,
            max_message_size=max_frame_bytes,
        )
    late = trio.current_time() >= deadline
    raise ConnectFailed(
        f"{url}: {'no answer to the upgrade in time' if late else 'ended during the upgrade'}"
    )


class _Watched(trio.abc.Stream):
    """Ends the upgrade with the connection: trio-websocket goes on waiting for an answer that cannot come."""

    def __init__(self, stream: TcpStream, upgrading: trio.CancelScope) -> None:
        self._stream = stream
        self._upgrading = upgrading

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._upgrading.cancel()
            raise
        if not data:
            self._upgrading.cancel()
        return bytes(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
