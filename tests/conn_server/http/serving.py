"""The HTTP side of a client port on loopback: every accepted socket is handed over at once."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import trio
from structlog.testing import CapturingLogger

from conn_server.http.front import HttpFront
from conn_server.http.posting import Posting
from conn_server.http.routes import HttpRoutes
from conn_server.origin import Origin
from conn_server.settings import Http, WebSocket
from schema.access import INVALID, Code, Grant, Refused
from schema.message import Message
from tests.http import http_client

NOW = 1_700_000_000.0
BOOT_ID = 9
MAX_DATA_BYTES = 1000
TOKEN = {"Authorization": "Bearer good"}


@dataclass
class PlayedLogic:
    """Lets everybody in but "bad"; keeps what is published.

    Attributes:
        refuse_sign_in, refuse_publish: raised, if there is one.
        gate: while there is one, every publish waits for it.
        waiting: how many wait there.
    """

    published: list[Message] = field(default_factory=list)
    grant: Grant = field(default_factory=lambda: Grant(uid=7, user="7"))
    refuse_sign_in: Exception | None = None
    refuse_publish: Exception | None = None
    gate: trio.Event | None = None
    waiting: int = 0

    async def authenticate(self, token: str) -> Grant:
        await trio.lowlevel.checkpoint()
        if self.refuse_sign_in is not None:
            raise self.refuse_sign_in
        if token == "bad":
            raise Refused(Code.NOT_SIGNED_IN, INVALID)
        return self.grant if token == "good" else Grant(uid=0, user=token)

    async def publish(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            self.waiting += 1
            try:
                await self.gate.wait()
            finally:
                self.waiting -= 1
        if self.refuse_publish is not None:
            raise self.refuse_publish
        self.published.append(message)


def new_posting(logic: PlayedLogic, **settings: object) -> Posting:
    return Posting(logic, Origin(BOOT_ID, lambda: NOW), Http(**settings), MAX_DATA_BYTES)  # type: ignore[arg-type]


@dataclass
class Served:
    """A running front and all that a test looks at.

    Attributes:
        given_back: sockets that `serve` gave back, and the heads; closed at the end.
    """

    address: tuple[str, int]
    front: HttpFront
    routes: HttpRoutes
    posting: Posting
    logic: PlayedLogic
    log: CapturingLogger
    nursery: trio.Nursery
    given_back: list[tuple[socket.socket, bytes]]

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    def client(self, **options: object) -> httpx2.AsyncClient:
        url = f"http://{self.address[0]}:{self.address[1]}"
        return http_client(base_url=url, timeout=5, **options)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what other tasks bring about."""
        with trio.fail_after(5):
            while not condition():  # noqa: ASYNC110  part of it happens in the kernel
                await trio.sleep(0.005)


@asynccontextmanager
async def http_port(
    *,
    issue: Callable[[str], str] | None = None,
    demo: Path | None = None,
    head_timeout_s: float = 5,
    max_head_bytes: int = 8192,
    tls: ssl.SSLContext | None = None,
    **settings: object,
) -> AsyncIterator[Served]:
    """Serve until left, which cancels everything, and nothing may take longer than 10 s."""
    logic, log = PlayedLogic(), CapturingLogger()
    http = Http(**settings)  # type: ignore[arg-type]
    websocket = WebSocket(head_timeout_s=head_timeout_s, max_head_bytes=max_head_bytes)
    posting = new_posting(logic, **settings)
    routes = HttpRoutes(posting, http, websocket_path="/room", issue=issue, demo=demo, log=log)
    given_back: list[tuple[socket.socket, bytes]] = []

    front = HttpFront(routes.app, http, websocket, log)

    async def accept(listener: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            sock, _ = listener.accept()
            sock.setblocking(False)
            nursery.start_soon(shake_hands_and_serve, sock)

    async def shake_hands_and_serve(sock: socket.socket) -> None:
        if tls is not None:
            sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            while True:
                try:
                    sock.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(sock)
        head = await front.serve(sock, b"")
        if head is not None:
            given_back.append((sock, head))

    with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(10):
        listener.setblocking(False)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept, listener)
                yield Served(listener.getsockname(), front, routes, posting, logic, log, nursery, given_back)
                nursery.cancel_scope.cancel()
        finally:
            for sock, _ in given_back:
                sock.close()
        assert front.statistics().open == 0


async def read_answer(stream: trio.abc.ReceiveStream) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers (names in lower case) and body of the next answer, which has a length."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = await stream.receive_some(1)
        assert chunk, f"ended after {received!r}"
        received += bytes(chunk)
    start, *lines = received.decode().rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = b""
    while len(body) < int(headers["content-length"]):
        body += bytes(await stream.receive_some(int(headers["content-length"]) - len(body)))
    return int(start.split()[1]), headers, body


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(chunk) async for chunk in stream])
