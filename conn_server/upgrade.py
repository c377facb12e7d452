r"""The upgrade request as browsers and libraries send it, answered without a protocol object.  Pure.

wsproto answers any upgrade request in 110 us; a plain one is answered here, byte for byte the same, in a
tenth of that (a storm of reconnecting clients is made of these).  What is not plain is wsproto's matter:
`plain_upgrade` returns None, and says nothing about right or wrong.

Plain is (RFC 6455 section 4.2.1, RFC 9112 section 5):

    GET <target> HTTP/1.1\r\n
    Name: value\r\n ...             visible ASCII, no name twice, no body announced
    Host:                           there
    Upgrade: websocket              in any case
    Connection: ..., upgrade, ...   in any case
    Sec-WebSocket-Key:              24 characters of base64
    Sec-WebSocket-Version: 13
    \r\n
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from typing import Final, NamedTuple

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_REQUEST_LINE: Final = re.compile(rb"GET [\x21-\x7e]+ HTTP/1\.1\r\n")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)\r\n")
_KEY: Final = re.compile(rb"[0-9A-Za-z+/]{22}==")
_ANSWER: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


class PlainUpgrade(NamedTuple):
    """A plain request: its Origin (None: no browser's), and the answer that accepts it."""

    origin: bytes | None
    answer: bytes


def plain_upgrade(head: bytes) -> PlainUpgrade | None:
    """Read `head`, blank line included; None if it is not plain."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        return None
    headers: dict[bytes, bytes] = {}
    at, end = line.end(), len(head) - 2
    while at < end:
        header = _HEADER.match(head, at)
        if header is None:
            return None
        name = header[1].lower()
        if name in headers:
            return None
        headers[name] = header[2]
        at = header.end()
    key = headers.get(b"sec-websocket-key", b"")
    if (
        head[at:] != b"\r\n"
        or b"host" not in headers
        or headers.get(b"upgrade", b"").lower() != b"websocket"
        or b"upgrade" not in re.split(rb",[ \t]*", headers.get(b"connection", b"").lower())
        or headers.get(b"sec-websocket-version") != b"13"
        or not _KEY.fullmatch(key)
        or not headers.keys().isdisjoint((b"content-length", b"transfer-encoding"))
    ):
        return None
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return PlainUpgrade(headers.get(b"origin"), _ANSWER % accept)
