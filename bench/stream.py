"""A client's socket on the poller: connect, TLS, send, receive; nothing waits.

Invariants
- `abort()` is the only place that closes the socket; it is idempotent and calls `on_end` once.
- What the socket does not take is kept and sent when it can be; over MAX_UNSENT_BYTES the stream is given up.
"""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import dataclass
from time import monotonic_ns
from typing import Final

from bench.poller import HALF_CLOSED, IN, OUT, Poller

MAX_UNSENT_BYTES: Final = 1 << 20
RECEIVE_BYTES: Final = 4096

_BLOCKED: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_READ_AGAIN_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where streams connect to: a resolved address, and TLS if it is spoken there.

    Attributes:
        name: of the host, which the certificate is for; empty: the address itself.
    """

    host: str
    port: int
    family: int
    tls: ssl.SSLContext | None
    name: str = ""


class Stream:
    """One TCP or TLS connection.  Owned by its poller until it is aborted.

    Subclasses say what happens in `on_connected`, `on_data` and `on_end`.
    """

    __slots__ = ("_connecting", "_endpoint", "_poller", "_unsent", "fd", "sock")

    def __init__(self, poller: Poller, endpoint: Endpoint) -> None:
        self._poller = poller
        self._endpoint = endpoint
        self._connecting = True
        self._unsent = b""
        self.sock: socket.socket | None = None
        self.fd = -1

    @property
    def is_connecting(self) -> bool:
        """Whether it is on its way to being connected."""
        return self._connecting and self.sock is not None

    def on_connected(self, now: int) -> None:
        """The stream can send."""
        raise NotImplementedError

    def on_data(self, data: bytes, now: int) -> None:
        """Bytes have come, `now` (ns)."""
        raise NotImplementedError

    def on_end(self, why: str) -> None:
        """The socket is closed."""
        raise NotImplementedError

    def connect(self, source: str = "", receive_buffer: int = 0) -> None:
        """Begin to connect; again after the end, if one likes.

        Args:
            source: the address to come from; empty: the system's choice.
            receive_buffer: its size in bytes; 0: the system's choice.
        """
        endpoint = self._endpoint
        self._connecting, self._unsent = True, b""
        try:
            self.sock = sock = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self.fd = sock.fileno()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                # The port is chosen at connect(), by the whole pair of addresses: many more fit.
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            error = sock.connect_ex((endpoint.host, endpoint.port))
        except OSError as exc:
            self._give_up(exc)
            return
        if error not in (0, errno.EINPROGRESS):
            self._give_up(OSError(error, errno.errorcode.get(error, "?")))
            return
        self._poller.add(self.fd, self, OUT)

    def send(self, data: bytes) -> None:
        """Send `data`, now or as soon as the socket takes it; a no-op on a closed stream."""
        sock = self.sock
        if sock is None:
            return
        if self._unsent:
            self._keep(data)
            return
        try:
            sent = sock.send(data)
        except _BLOCKED:
            sent = 0
        except OSError as exc:
            self._give_up(exc)
            return
        if sent != len(data):
            self._keep(data[sent:])

    def stop_reading(self) -> None:
        """Take nothing more from the socket, until its end."""
        if self.sock is not None:
            self._poller.modify(self.fd, HALF_CLOSED)  # errors are reported all the same

    def read_again(self) -> None:
        """Take what has come meanwhile, and what still comes, as fast as it goes."""
        if self.sock is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ_AGAIN_BYTES)
            self._poller.modify(self.fd, IN)

    def abort(self, why: str = "aborted") -> None:
        """Close the socket now."""
        sock, self.sock = self.sock, None
        if sock is not None:
            self._poller.remove(self.fd)
            sock.close()
            self.on_end(why)

    def on_event(self, events: int) -> None:
        """Act on what the poller saw."""
        if self._connecting:
            self._go_on_connecting()
            return
        if events & OUT:
            self._flush()
        if events & ~OUT:
            self._receive()

    def _receive(self) -> None:
        sock = self.sock
        while sock is not None:
            try:
                data = sock.recv(RECEIVE_BYTES)
            except _BLOCKED:
                return
            except OSError as exc:
                self._give_up(exc)
                return
            if not data:
                self.abort("closed by the server")
                return
            self.on_data(data, monotonic_ns())
            if len(data) < RECEIVE_BYTES and self._endpoint.tls is None:
                return  # TLS may hold more that raises no event
            sock = self.sock

    def _go_on_connecting(self) -> None:
        sock = self.sock
        if sock is None:
            return
        try:
            if not isinstance(sock, ssl.SSLSocket):
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    self._give_up(OSError(error, errno.errorcode.get(error, "?")))
                    return
                if self._endpoint.tls is not None:
                    sock = self._start_tls(sock, self._endpoint.tls)
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
        except ssl.SSLWantReadError:
            self._poller.modify(self.fd, IN)
        except ssl.SSLWantWriteError:
            self._poller.modify(self.fd, OUT)
        except OSError as exc:
            self._give_up(exc)
        else:
            self._connecting = False
            self._poller.modify(self.fd, IN)
            self.on_connected(monotonic_ns())

    def _start_tls(self, sock: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        # The wrapped socket takes over the descriptor, under the same number.
        self.sock = wrapped = tls.wrap_socket(
            sock, server_hostname=self._endpoint.name or self._endpoint.host, do_handshake_on_connect=False
        )
        return wrapped

    def _keep(self, data: bytes) -> None:
        if not self._unsent:
            self._poller.modify(self.fd, IN | OUT)
        self._unsent += data
        if len(self._unsent) > MAX_UNSENT_BYTES:
            self.abort("the server does not read")

    def _flush(self) -> None:
        data, self._unsent = self._unsent, b""
        if self.sock is not None and data:
            self._poller.modify(self.fd, IN)
            self.send(data)

    def _give_up(self, exc: OSError) -> None:
        is_tls = isinstance(exc, ssl.SSLError)  # whose numbers are not those of errno
        name = type(exc).__name__ if is_tls else errno.errorcode.get(exc.errno or 0, type(exc).__name__)
        if self.sock is None:
            self.on_end(name)
        else:
            self.abort(name)
