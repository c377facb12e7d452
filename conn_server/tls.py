"""What a client's socket does differently when it speaks TLS, and what both kinds have in common.

Over TLS one `send` may be a record that is encrypted already and not gone yet, and the end of what we say is
an alert of its own before that of TCP.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Final

BLOCKED: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a non-blocking socket of either kind raises when there is nothing to read, or no room to write."""
RECORD_BYTES: Final = 16 * 1024
"""What one TLS record holds at most."""


class TlsSocket(ssl.SSLSocket):
    """Takes a part of what is too much for it, as a plain socket does.  Made by the port's context."""

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]  # has a length
        """Send as many bytes of `data` as the socket takes, by whole records; return how many.

        OpenSSL alone says nothing before the last record of a write is gone: a peer that reads a large frame
        steadily, but slowly, looked like one that reads nothing.  A record that is encrypted but not gone yet
        is not counted.  It has to be the next thing that is sent, with the same length: it is where the
        caller goes on after what was counted, because records are cut from there on.
        """
        size = len(data)
        if size <= RECORD_BYTES:
            return super().send(data, flags)
        view, sent = memoryview(data), 0
        try:
            while sent < size:
                sent += super().send(view[sent : sent + RECORD_BYTES], flags)
        except BLOCKED:
            if not sent:
                raise
        return sent


def end_writing(sock: socket.socket) -> None:
    """Say that nothing more will come, over TLS as well; what was sent before arrives.

    Whoever does it then reads, and throws away, until the peer's end or a deadline: closing with unread input
    would reset the connection, and take back what was sent last.  A TLS socket gives ciphertext from here on.

    Args:
        sock: non-blocking, with nothing of ours left to write.

    Raises:
        OSError: the connection is broken.
    """
    if isinstance(sock, ssl.SSLSocket):
        # Without close_notify a peer cannot tell our end from a cut (RFC 8446 section 6.1).  Ours is a small
        # record in a buffer that has just taken everything; the peer's, for which it asks, is not waited for.
        with suppress(OSError, ValueError):
            sock.unwrap()
    sock.shutdown(socket.SHUT_WR)
