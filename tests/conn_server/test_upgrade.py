"""A plain upgrade request is answered exactly as wsproto would; what is not plain is left to it."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request
from wsproto.utilities import RemoteProtocolError

from conn_server.upgrade import plain_upgrade

PLAIN = (
    b"GET /room?x=1 HTTP/1.1\r\n",
    b"Host: localhost:8081\r\n",
    b"Connection: keep-alive, Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Origin: https://chat.example\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"\r\n",
)


def judge(head: bytes) -> bytes | None:
    """Return wsproto's acceptance, None where it does not accept."""
    protocol = WSConnection(ConnectionType.SERVER)
    try:
        protocol.receive_data(head)
        event = next(iter(protocol.events()), None)
    except (RemoteProtocolError, ValueError):
        return None
    return bytes(protocol.send(AcceptConnection())) if isinstance(event, Request) else None


def test_plain_request_gets_the_answer_of_wsproto() -> None:
    head = b"".join(PLAIN)
    upgrade = plain_upgrade(head)
    assert upgrade is not None
    assert upgrade.answer == judge(head)
    assert upgrade.origin == b"https://chat.example"


def test_sample_nonce_of_the_rfc_gets_its_accept_key() -> None:
    upgrade = plain_upgrade(b"".join(PLAIN))
    assert upgrade is not None
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in upgrade.answer


@pytest.mark.parametrize("left_out", range(len(PLAIN)))
def test_what_a_request_needs_is_missed(left_out: int) -> None:
    head = b"".join(line for number, line in enumerate(PLAIN) if number != left_out)
    upgrade = plain_upgrade(head)
    assert (upgrade and upgrade.answer) == (judge(head) if left_out != len(PLAIN) - 1 else None)


@pytest.mark.parametrize(
    "line",
    [
        b"Host: again\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X-Folded: a\r\n b\r\n",
        b"X-Control: a\x01b\r\n",
        b"X-High: \xe9\r\n",
        b"No colon\r\n",
        b"Space : x\r\n",
        b"X-Bare: x\n",
        b"X-Empty:\r\n",
    ],
)
def test_anything_odd_is_not_plain(line: bytes) -> None:
    assert plain_upgrade(b"".join((*PLAIN[:-1], line, PLAIN[-1]))) is None


@given(st.data())
def test_never_accepts_what_wsproto_does_not(data: st.DataObject) -> None:
    lines = list(PLAIN)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        line = bytearray(lines[at])
        where = data.draw(st.integers(0, max(0, len(line) - 1)))
        line[where : where + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        lines[at] = bytes(line)
    head = b"".join(data.draw(st.permutations(lines[1:-1])))
    head = lines[0] + head + lines[-1]
    upgrade = plain_upgrade(head)
    if upgrade is not None:
        assert upgrade.answer == judge(head)
