"""The sockets of the client port: where it listens, with what certificate, and how many files it may have."""

from __future__ import annotations

import resource
import socket
import ssl
from typing import Final

from conn_server.settings import WebSocket
from conn_server.tls import TlsSocket
from runtime.failures import setting_up
from runtime.tls import NO_PASSPHRASE, reading_pem
from runtime.units import split_address

_ALPN: Final = ["http/1.1"]  # a WebSocket over HTTP/2 is another protocol (RFC 8441)


def open_sockets(settings: WebSocket) -> list[socket.socket]:
    """Listen where the settings say; the caller closes the sockets.

    Without a host it is every address of the machine, IPv4 and IPv6 by one socket, as the Go system does.

    Raises:
        SetupError: the address cannot be bound.
    """
    listener = _bound(settings, reuse_port=settings.reuse_port)
    try:
        with setting_up(f"client port {settings.bind}"):
            listener.listen(settings.backlog)
    except BaseException:
        listener.close()
        raise
    return [listener]


def reserve_port(settings: WebSocket) -> socket.socket:
    """Take the client port without listening: processes of the same user can then share it.

    The kernel gives connections to those sockets alone that listen.  The caller closes the socket.

    Raises:
        SetupError: the address cannot be bound.
    """
    return _bound(settings, reuse_port=True)


def _bound(settings: WebSocket, *, reuse_port: bool) -> socket.socket:
    host, port = split_address(settings.bind)
    with setting_up(f"client port {settings.bind}"):
        is_dual = not host and socket.has_dualstack_ipv6()
        family, _, _, _, address = socket.getaddrinfo(
            host or ("::" if is_dual else "0.0.0.0"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Linux gives it to those accepted
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_dual)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
    sock.settimeout(0)
    return sock


def tls_context(settings: WebSocket) -> ssl.SSLContext | None:
    """Return the context of the client port, None where it is clear text.

    Raises:
        SetupError: the files cannot be read, or do not belong together.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = TlsSocket
    with reading_pem(f"[websocket] tlsCert {settings.tls_cert}, tlsKey {settings.tls_key}"):
        context.load_cert_chain(settings.tls_cert, settings.tls_key, NO_PASSPHRASE)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_ALPN)
    # A resumed session saves a client one signature; the ticket costs every connection memory and a write.
    context.num_tickets = 0
    return context


def raise_fd_limit() -> int:
    """Raise the limit of open files as far as the process may; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
