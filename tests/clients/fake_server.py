"""A conn server as its clients see it: one port, /room, /tk, /msg and files, one process, no queue.

It speaks the wire with the server's end of schema/, and can be told to misbehave: see the attributes.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from schema.access import EXPIRED, Code, go_error_text
from schema.batch import pack
from schema.envelope import (
    NOT_SIGNED_IN,
    PackageType,
    Request,
    SignedIn,
    decode_publish,
    decode_request,
    decode_sign_in,
    encode_ack,
    encode_error,
    encode_members,
    encode_pong,
    encode_push,
    encode_signed_in,
)
from schema.gojson import encode_string
from schema.message import Item, Level, Message, Push

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
NOW_MS = 1_700_000_000_000


@dataclass(eq=False)
class Member:
    """One WebSocket and what it said about itself."""

    websocket: WebSocketConnection
    room: str = ""
    user: str = ""
    version: int = 0


@dataclass(eq=False)
class FakeServer:
    """What a test sees and sets.

    Attributes:
        silent: requests of these types are not answered.
        refuse: room -> (code, text) of a refused sign-in or publish.
        refuse_tokens: /tk answers as if it were switched off.
        is_full: /tk answers that there is no place.
        members: who is connected, signed in or not.
        sign_ins: (token, room, version) of every sign-in that came.
        frames: every request that came.
    """

    host: str = "127.0.0.1"
    port: int = 0
    files: Path | None = None
    heartbeat_timeout_s: int = 60
    silent: set[PackageType] = field(default_factory=set)
    refuse: dict[str, tuple[Code, str]] = field(default_factory=dict)
    refuse_tokens: bool = False
    is_full: bool = False
    secure: bool = False
    members: list[Member] = field(default_factory=list)
    sign_ins: list[tuple[str, str, int]] = field(default_factory=list)
    frames: list[Request] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)
    sequence: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    @property
    def room_url(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.host}:{self.port}/room"

    async def wait_for_frames(self, type_: PackageType, number: int = 1) -> list[Request]:
        with trio.fail_after(5):
            while len(frames := [frame for frame in self.frames if frame.type == type_]) < number:
                await self.changed.wait()
        return frames

    async def wait_for_members(self, number: int) -> None:
        with trio.fail_after(5):
            while len(self.members) != number:
                await self.changed.wait()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def push(self, room: str, records: Iterable[Message]) -> None:
        """Send one push that carries `records`."""
        records = list(records)
        items = tuple(
            Item(record.sender, record.sent_at_ms, (self.sequence + place).to_bytes(16, "big"))
            for place, record in enumerate(records)
        )
        self.sequence += len(records)
        push = Push(room, records[0].level, pack(record.data for record in records), items)
        for member in [member for member in self.members if member.room == room]:
            await member.websocket.send_message(encode_push(push, member.version))

    async def send_to_all(self, frame: bytes | str) -> None:
        for member in list(self.members):
            await member.websocket.send_message(frame)

    async def close_all(self, code: int, reason: str = "") -> None:
        for member in list(self.members):
            await member.websocket.aclose(code, reason)

    async def serve_stream(self, stream: Stream) -> None:
        async with stream:
            try:
                head = await _read_head(stream)
                if head.startswith(b"GET /room"):
                    async with trio.open_nursery() as nursery:
                        request = await wrap_server_stream(nursery, _Replayed(head, stream))
                        await self.serve_client(await request.accept())
                elif head:
                    await stream.send_all(await self.answer(head, stream))
            except* (trio.BrokenResourceError, ConnectionClosed):
                pass

    async def serve_client(self, websocket: WebSocketConnection) -> None:
        member = Member(websocket)
        self.members.append(member)
        self._tell()
        try:
            while True:
                payload = await websocket.get_message()
                request = decode_request(payload if isinstance(payload, bytes) else payload.encode())
                self.frames.append(request)
                self._tell()
                if request.type not in self.silent:
                    await self.answer_request(member, request)
        except ConnectionClosed:
            pass
        finally:
            self.members.remove(member)
            self._tell()

    async def answer_request(self, member: Member, request: Request) -> None:
        send = member.websocket.send_message
        match request.type:
            case PackageType.SIGN_IN:
                await send(self.sign_in(member, request))
            case _ if not member.room:
                await send(NOT_SIGNED_IN)
            case PackageType.HEARTBEAT:
                await send(encode_pong(request.id))
            case PackageType.MEMBERS:
                await send(encode_members(self.count(member.room), request.id))
            case PackageType.MESSAGE:
                publish = decode_publish(request.data)
                code, text = self.refuse.get(publish.room, (Code.OK, "suc"))
                if request.id:
                    await send(encode_ack(code, text, request.id))
                if code is Code.OK:
                    message = Message(publish.room, publish.level, publish.data, 0, 0, member.user, NOW_MS)
                    await self.push(publish.room, [message])

    def sign_in(self, member: Member, request: Request) -> bytes:
        sign_in = decode_sign_in(request.data)
        self.sign_ins.append((sign_in.token, sign_in.room, sign_in.version))
        if not sign_in.token.startswith("token-of-"):
            return encode_error(Code.NOT_SIGNED_IN, go_error_text(EXPIRED), request.id)
        if sign_in.room in self.refuse:
            return encode_error(*self.refuse[sign_in.room], request.id)
        member.room, member.version = sign_in.room, sign_in.version
        member.user = sign_in.token.removeprefix("token-of-")
        told = SignedIn(self.count(member.room), self.heartbeat_timeout_s, NOW_MS)
        return encode_signed_in(told if member.version else None, request.id)

    def count(self, room: str) -> int:
        return sum(member.room == room for member in self.members)

    async def answer(self, head: bytes, stream: Stream) -> bytes:
        """Answer one HTTP request; the connection is closed after it."""
        lines, _, body = head.partition(b"\r\n\r\n")
        method, path, *_ = lines.decode().split()
        headers = dict(line.lower().split(": ", 1) for line in lines.decode().split("\r\n")[1:])
        while len(body) < int(headers.get("content-length", 0)):
            body += await stream.receive_some()
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        path = path.partition("?")[0]
        if (method, path) == ("POST", "/tk"):
            if self.is_full:
                return _response(_json(code=0, msg="this node is full"), status="503 Service Unavailable")
            if self.refuse_tokens:
                return _response(_json(code=0, msg="no tokens here"))
            return _response(_json(code=1, data=f"token-of-{form['uid']}", msg="suc"))
        if (method, path) == ("POST", "/msg"):
            user = headers["authorization"].removeprefix("bearer token-of-")
            data = encode_string(form["msg"])
            await self.push(form["room_id"], [Message("", Level.IMPORTANT, data, 0, 0, user, NOW_MS)])
            return _response(_json(code=1, msg="suc"))
        file = self.files and self.files / (path.lstrip("/") or "index.html")
        if method == "GET" and file and file.is_file():
            return _response(file.read_bytes(), TYPES[file.suffix])
        return _response(b"", status="404 Not Found")


@asynccontextmanager
async def open_fake_server(
    server: FakeServer | None = None, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[FakeServer]:
    """Serve on a free port of loopback until the block is left."""
    server = server or FakeServer()
    serve: Callable[..., Awaitable[object]]
    if ssl_context is None:
        serve = partial(trio.serve_tcp, server.serve_stream, 0, host=server.host)
    else:
        server.secure = True
        serve = partial(
            trio.serve_ssl_over_tcp,
            server.serve_stream,
            0,
            ssl_context,
            host=server.host,
            https_compatible=True,
        )
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        listener = listeners[0] if ssl_context is None else listeners[0].transport_listener
        server.port = listener.socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


class _Replayed(trio.abc.Stream):
    """A stream whose first bytes have been read already."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        self._head = head
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _read_head(stream: Stream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some()
        if not data:
            return b""
        head += data
    return head


def _json(**fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _response(body: bytes, type_: str = "application/json", status: str = "200 OK") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {type_}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        "content-security-policy: default-src 'self'\r\ncache-control: no-store\r\n\r\n"
    )
    return head.encode() + body
