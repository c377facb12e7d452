"""A client port on loopback with a logic that a test plays itself."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message as WsMessage,
    Request,
)

from conn_server.admission import Admission
from conn_server.client import Client, Node
from conn_server.connection import Connection, Limits, Wire
from conn_server.origin import Origin
from conn_server.poller import Poller
from conn_server.port import ClientPort
from conn_server.rooms import Rooms
from conn_server.session import Refusals, Rules
from conn_server.settings import WebSocket
from conn_server.sockets import open_sockets
from runtime.metrics import Metrics
from runtime.sections import ClientDrain
from schema.access import INVALID, Code, Grant, Refused, Unavailable
from schema.message import Message
from schema.proto import conn_pb2 as pb

LOG = structlog.get_logger()
NOW = 1_700_000_000.0
BOOT_ID = 7
SUC = bytes.fromhex("12051203737563")


def sign_in(room: str, token: str = "good", version: int = 0, request_id: int = 0) -> bytes:
    data = pb.SignIn(token=token, roomID=room, version=version).SerializeToString()
    return pb.Req(type=pb.SIGN_IN, data=data, id=request_id).SerializeToString()


def message(room: str, data: bytes, request_id: int = 0) -> bytes:
    body = pb.BroadcastRoomReq(roomID=room, data=data).SerializeToString()
    return pb.Req(type=pb.MESSAGE, data=body, id=request_id).SerializeToString()


@dataclass
class PlayedLogic:
    """Lets everybody in but "bad"; keeps what is published.

    Attributes:
        gate: while it is there, every call waits for it.
        refuse: raised by `publish`.
        timeout_s: both calls have a deadline of their own.
        refusal: what "bad" is told.
        under_way: calls that have not come to their end.
    """

    published: list[Message] = field(default_factory=list)
    gate: trio.Event | None = None
    calls: int = 0
    under_way: int = 0
    refuse: Exception | None = None
    timeout_s: float = 5.0
    refusal: str = INVALID
    grant: Grant = field(default_factory=lambda: Grant(uid=7, user="7"))

    async def authenticate(self, token: str) -> Grant:
        self.calls += 1
        await self._pass()
        if token == "bad":
            raise Refused(Code.NOT_SIGNED_IN, self.refusal)
        return self.grant

    async def publish(self, message: Message) -> None:
        self.calls += 1
        await self._pass()
        if self.refuse is not None:
            raise self.refuse
        self.published.append(message)

    async def _pass(self) -> None:
        self.under_way += 1
        try:
            with trio.move_on_after(self.timeout_s) as scope:
                await trio.lowlevel.checkpoint()
                if self.gate is not None:
                    await self.gate.wait()
        finally:
            self.under_way -= 1
        if scope.cancelled_caught:
            raise Unavailable("no answer in time")


class ClosingHttp:
    """Answers every request that is no upgrade with one line.

    Attributes:
        later: gives the socket back instead, with this as the head of a later request.
    """

    cors_origin = "*"

    def __init__(self) -> None:
        self.later: bytes | None = None
        self.received: list[bytes] = []
        self.drained = False

    async def serve(self, sock: socket.socket, received: bytes) -> bytes | None:
        if self.later is not None:
            return self.later
        with sock:
            await trio.lowlevel.checkpoint()
            self.received.append(received)
            sock.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        return None

    def drain(self) -> None:
        self.drained = True


@dataclass
class Served:
    """A running port and all that a test looks at.

    Attributes:
        scope: of the port alone; cancelling it leaves the test running.
        ended: the port has come to its end.
    """

    port: ClientPort
    address: tuple[str, int]
    logic: PlayedLogic
    http: ClosingHttp
    wire: Wire
    node: Node
    metrics: Metrics
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    peers: list[Peer] = field(default_factory=list)

    async def run(
        self, sockets: list[socket.socket], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with self.scope:
            await self.port.run(sockets, self.metrics, task_status=task_status)
        self.ended.set()

    async def connect(
        self,
        target: str = "/room",
        headers: list[tuple[bytes, bytes]] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Peer:
        """Open a WebSocket with wsproto on a raw socket."""
        stream: trio.abc.Stream = await trio.open_tcp_stream(*self.address)
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True)
        peer = Peer(stream)
        self.peers.append(peer)
        await peer.upgrade(target, headers)
        return peer

    def sweep(self, later_s: float) -> None:
        """Let all look at their deadlines as if it were `later_s` later."""
        now = trio.current_time() + later_s
        for handler in list(self.wire.poller.handlers()):
            handler.swept(now)

    def number(self, name: str) -> float:
        """Return a number as an operator sees it, summed up over its reasons."""
        return sum(
            sample.value
            for family in self.metrics.collect()
            for sample in family.samples
            if sample.name == f"roomcast_{name}"
        )

    @property
    def clients(self) -> list[Client]:
        """The clients that are connected."""
        return [
            handler._receiver
            for handler in self.wire.poller.handlers()
            if isinstance(handler, Connection) and isinstance(handler._receiver, Client)
        ]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of any client is left."""
        node = self.node
        return not (
            self.wire.poller.statistics().sockets
            or node.rooms.statistics().rooms
            or node.admission.statistics().connections
            or self.logic.under_way
        )

    async def raw(self) -> trio.SocketStream:
        """Connect, and say nothing."""
        stream = await trio.open_tcp_stream(*self.address)
        self.peers.append(Peer(stream))
        return stream

    async def join(
        self, room: str, token: str = "good", version: int = 0, tls: ssl.SSLContext | None = None
    ) -> Peer:
        """Connect and sign in."""
        peer = await self.connect(tls=tls)
        await peer.say(sign_in(room, token, version))
        answer = pb.Reply.FromString(await peer.hear())
        assert pb.Err.FromString(answer.data).msg == "suc"
        return peer

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that other tasks bring about; the test's deadline bounds it."""
        with trio.fail_after(5):
            while not condition():  # noqa: ASYNC110  what is waited for sets no event
                await trio.sleep(0.005)


class Peer:
    """A client that says exactly what it is told to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    async def upgrade(self, target: str = "/room", headers: list[tuple[bytes, bytes]] | None = None) -> None:
        request = Request(host="localhost", target=target, extra_headers=headers or [])
        await self.stream.send_all(self.protocol.send(request))
        event = await self.event()
        assert isinstance(event, AcceptConnection), event

    async def say(self, payload: bytes) -> None:
        await self.stream.send_all(self.protocol.send(BytesMessage(payload)))

    async def event(self) -> Event:
        with trio.fail_after(5):
            while not self._events:
                data = await self.stream.receive_some(65536)
                self.protocol.receive_data(bytes(data) or None)
                self._events += self.protocol.events()
        return self._events.pop(0)

    async def hear(self) -> bytes:
        """Return the next message, its fragments joined."""
        parts = []
        while True:
            event = await self.event()
            assert isinstance(event, WsMessage), event
            parts.append(event.data)
            if event.message_finished:
                return b"".join(map(bytes, parts))

    async def closed(self) -> CloseConnection:
        """Return the close frame, which is the next thing to come."""
        event = await self.event()
        assert isinstance(event, CloseConnection), event
        return event

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


@asynccontextmanager
async def serving(
    *,
    limits: Limits | None = None,
    rules: Rules | None = None,
    max_connections: int = 1000,
    per_address: int = 0,
    max_rooms: int = 100,
    request_timeout_s: float = 5.0,
    now: float = NOW,
    farewell: ClientDrain | None = None,
    logic: PlayedLogic | None = None,
    check: Callable[[str], Grant] | None = None,
    **settings: object,
) -> AsyncIterator[Served]:
    """Serve on a free port of loopback; leaving cancels everything."""
    settings = {"accept_rate": 0.0, **settings}
    websocket = WebSocket(bind="127.0.0.1:0", **settings)  # type: ignore[arg-type]
    wire = Wire(Poller(LOG), limits or Limits(), LOG)
    logic = logic or PlayedLogic(timeout_s=request_timeout_s)
    rooms: Rooms[Connection] = Rooms(max_rooms)
    node = Node(
        logic=logic,
        rooms=rooms,
        admission=Admission(max_connections, per_address),
        origin=Origin(BOOT_ID, lambda: now),
        rules=rules or Rules(),
        refusals=Refusals(),
        unix_now=lambda: now,
        check=check,
    )
    http = ClosingHttp()
    port = ClientPort(websocket, farewell or ClientDrain(), wire, node, http, LOG)
    sockets = open_sockets(websocket)
    address = sockets[0].getsockname()[:2]
    served = Served(port, address, logic, http, wire, node, Metrics())
    async with trio.open_nursery() as nursery:
        await nursery.start(served.run, sockets)
        try:
            yield served
        finally:
            for peer in served.peers:
                await peer.aclose()
            nursery.cancel_scope.cancel()
