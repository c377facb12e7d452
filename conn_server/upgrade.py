r"""The upgrade request as browsers and libraries send it, answered without a protocol object.  Pure.

wsproto answers any upgrade request in 110 us; a plain one is answered here, byte for byte the same, in a
tenth of that (a storm of reconnecting clients is made of these).  What is not plain is wsproto's matter:
`plain_upgrade` returns None, and says nothing about right or wrong.  wsproto looks for the headers of an
upgrade, but not at all that RFC 6455 says about them: `breach` does.

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
from binascii import b2a_base64
from collections.abc import Iterable
from hashlib import sha1
from typing import Final, NamedTuple

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_REQUEST_LINE: Final = re.compile(rb"GET [\x21-\x7e]+ HTTP/1\.1\r\n")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)\r\n")
_COMMA: Final = re.compile(rb",[ \t]*")
_KEY: Final = re.compile(rb"[0-9A-Za-z+/]{22}==")
_VERSION: Final = re.compile(rb"[^\r\n]* HTTP/1\.[1-9]\r?\n")
_AUTHORITY: Final = re.compile(rb"(?i:https?)://[^/?#\s]+")
_SCHEMES: Final = (b"http://", b"https://")
_ANSWER: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


class PlainUpgrade(NamedTuple):
    """A plain request: its Origin (None: no browser's), and the answer that accepts it."""

    origin: bytes | None
    answer: bytes


def may_be_upgrade(head: bytes, path: bytes) -> bool:
    """Say whether `head` begins, or may come to begin, with a GET of `path` and perhaps a query.

    The target may be absolute, as a proxy is asked; every server has to take that (RFC 9112 section 3.2.2).
    """
    get = b"GET " + path
    if head.startswith(get) and len(head) > len(get):
        return head[len(get)] in b" ?"
    if get.startswith(head):
        return True
    if not head.startswith((b"GET h", b"GET H")):
        return False
    target = head[4:]
    authority = _AUTHORITY.match(target)
    if authority is None:
        return any(scheme.startswith(target.lower()) for scheme in _SCHEMES)
    rest = target[authority.end() :]
    return path.startswith(rest) or (rest.startswith(path) and rest[len(path)] in b" ?")


def breach(head: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return what of RFC 6455 section 4.2.1 a request breaks that wsproto has taken, None for nothing.

    Args:
        head: all of it.
        headers: name and value of each.
    """
    if _VERSION.match(head) is None:
        return "it has to be HTTP/1.1"
    keys = []
    for name, value in headers:
        kind = name.lower()
        if kind == b"sec-websocket-key":
            keys.append(value)
        elif kind == b"transfer-encoding" or (kind == b"content-length" and value != b"0"):
            return "it must not have a body"
    if len(keys) != 1:
        return "there has to be one Sec-WebSocket-Key"
    if not _KEY.fullmatch(keys[0]):
        return "Sec-WebSocket-Key has to be 16 bytes in base64"
    return None


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
        or b"upgrade" not in _COMMA.split(headers.get(b"connection", b"").lower())
        or headers.get(b"sec-websocket-version") != b"13"
        or not _KEY.fullmatch(key)
        or not headers.keys().isdisjoint((b"content-length", b"transfer-encoding"))
    ):
        return None
    accept = b2a_base64(sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)
    return PlainUpgrade(headers.get(b"origin"), _ANSWER % accept)
