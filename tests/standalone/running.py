"""The all-in-one on free ports of loopback, in the test's own process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2
import structlog
import trio
from wsproto.events import BytesMessage, CloseConnection

from clients.python import Client, Received, open_client
from runtime.lifecycle import Drain
from runtime.settings import load
from schema.proto import conn_pb2 as pb
from schema.tokens import TokenAuthority
from standalone.app import Standalone, serve
from standalone.settings import StandaloneSettings
from tests.conn_server.serving import Peer
from tests.http import http_client

LOG = structlog.get_logger("test")
KEY = "a secret of thirty-two bytes, yes"
ANYWHERE = {"conn.websocket.bind": "127.0.0.1:0", "conn.admin.bind": "127.0.0.1:0"}
DEADLINE_S = 60.0


def settings_with(**overrides: str | int) -> StandaloneSettings:
    """Return settings on free ports; `conn__websocket__path` is `conn.websocket.path`."""
    given = ANYWHERE | {name.replace("__", "."): value for name, value in overrides.items()}
    return load(StandaloneSettings, None, {"ROOMCAST_TOKEN_SECRET": KEY}, given).settings


def token_of(user: str) -> str:
    return TokenAuthority(KEY.encode()).issue(user, time.time())


@dataclass
class Running:
    """A system that serves.

    Attributes:
        scope: of the system alone; cancelling it leaves the test running.
        ended: it has come to its end.
    """

    settings: StandaloneSettings
    drain: Drain
    where: Standalone = field(default_factory=lambda: Standalone("", "", ""))
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[Standalone] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            await serve(self.settings, self.drain, LOG, task_status=task_status)
        self.ended.set()

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.where.http_url)
        return str(parts.hostname), int(parts.port or 0)

    def join(self, user: str, room: str, *, version: int = 1) -> AbstractAsyncContextManager[Client]:
        """Open a client of ours."""
        return open_client(self.where.websocket_url, token=token_of(user), room=room, version=version)

    async def connect(self, receive_buffer_bytes: int = 0) -> Peer:
        """Open a WebSocket that does exactly what it is told to; its owner closes it."""
        sock = trio.socket.socket()
        if receive_buffer_bytes:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer_bytes)
        await sock.connect(self.address)
        peer = Peer(trio.SocketStream(sock))
        try:
            await peer.upgrade()
        except BaseException:
            await peer.aclose()
            raise
        return peer

    def http(self, user: str = "") -> httpx2.AsyncClient:
        """Return a client for the HTTP side, with the token of `user`."""
        headers = {"Authorization": f"Bearer {token_of(user)}"} if user else {}
        return http_client(base_url=self.where.http_url, headers=headers, timeout=10)

    async def ask(self, page: str) -> tuple[int, str]:
        """Get a page of the admin port."""
        async with http_client(timeout=10) as client:
            answer = await client.get(f"{self.where.admin_url}{page}")
            return answer.status_code, answer.text

    async def numbers(self) -> dict[str, float]:
        """Return the samples of /metrics by name and labels."""
        _, text = await self.ask("/metrics")
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    async def until(self, condition: Callable[[dict[str, float]], object]) -> dict[str, float]:
        """Wait until the numbers are so; the test's own deadline is its bound."""
        with trio.fail_after(DEADLINE_S):
            while True:
                numbers = await self.numbers()
                if condition(numbers):
                    return numbers
                await trio.sleep(0.02)


@asynccontextmanager
async def running(**overrides: str | int) -> AsyncIterator[Running]:
    """Serve until left, which cancels everything."""
    settings = settings_with(**overrides)
    system = Running(settings, Drain(settings.drain.timeout_s))
    async with trio.open_nursery() as nursery:
        system.where = await nursery.start(system.run)
        try:
            yield system
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def crowd(system: Running, count: int, rooms: int) -> AsyncIterator[list[Client]]:
    """Let `count` users sign in, turn by turn into `rooms` rooms: "room 0", "room 1", …"""
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for number in range(count):
            joining = system.join(f"user {number}", f"room {number % rooms}")
            clients.append(await stack.enter_async_context(joining))
        yield clients


async def hear_pushes(peer: Peer) -> tuple[list[bytes], CloseConnection]:
    """Return the pushes that still come, and the close frame after them; then close."""
    pushes, payload = [], b""
    while isinstance(event := await peer.event(), BytesMessage):
        payload += event.data
        if event.message_finished:
            reply, payload = pb.Reply.FromString(payload), b""
            if reply.type == pb.MESSAGE:
                pushes.append(pb.BroadcastRoomReq.FromString(reply.data).data)
    await peer.aclose()
    assert isinstance(event, CloseConnection)
    return pushes, event


async def hear(client: Client, count: int) -> list[Received]:
    """Return the next `count` messages."""
    with trio.fail_after(DEADLINE_S):
        return [await client.receive() for _ in range(count)]
