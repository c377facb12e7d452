"""A TLS socket writes and ends as a plain one does, and its peer can tell that end from a cut."""

from __future__ import annotations

import socket
import ssl

import pytest

from conn_server.tls import end_writing
from schema.closing import CloseCode
from tests.conn_server.conftest import Tls
from tests.conn_server.driven import RawPeer, open_door

pytestmark = pytest.mark.usefixtures("no_leaks")


def heard_until_close_notify(peer: RawPeer) -> bytes:
    """Return what comes; an end of TCP alone is an error."""
    assert isinstance(peer.sock, ssl.SSLSocket)
    peer.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # not in typeshed
    heard = b""
    while data := peer.sock.recv(1 << 16):
        heard += data
    return heard


async def test_closed_client_hears_close_notify_after_the_close_frame(tls: Tls) -> None:
    with open_door(tls=tls.both) as door:
        connection, _, peer = door.enter()
        connection.close(CloseCode.GOING_AWAY, "bye")
        assert heard_until_close_notify(peer) == b"\x88\x05\x03\xe9bye"


async def test_rejected_client_hears_close_notify_after_the_answer(tls: Tls) -> None:
    with open_door(tls=tls.both) as door:
        peer = door.knock()
        peer.say(b"GET /room HTTP/1.1\r\nHost: x\r\n\r\n")
        assert heard_until_close_notify(peer).startswith(b"HTTP/1.1 400 ")


async def test_client_that_goes_on_talking_is_closed_in_the_same_way(tls: Tls) -> None:
    """Its unread records are in the way of its close_notify, which is not waited for, not of ours."""
    with open_door(tls=tls.both) as door:
        connection, _, peer = door.enter()
        peer.sock.send(b"\x82\x80late")
        connection.close(CloseCode.GOING_AWAY)
        assert heard_until_close_notify(peer) == b"\x88\x0a\x03\xe9draining"


def test_socket_that_is_broken_already_is_told_to_the_caller() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            end_writing(near)
