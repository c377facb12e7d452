"""The logic server's gRPC service: one `Link` per conn server, and the Go system's unary calls.

    Link     sign-ins   checked where they are read, some microseconds each
             publishes  frame by frame: what is read waits until the frame before it is stored or given
                        up, so one room's messages keep their order through every retry

    frames read --> window --> memory channel --> one storer --> Logic.publish_many --> one reply

The window, announced first, bounds what is unanswered: a peer that asks for more loses its link.  While the
server drains its conn servers are told so, and what they had sent before they knew is still answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from logic_server.logic import Logic
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.handling import stopping_of
from schema.access import NO_ROOM_OR_DATA, Code, Grant, Refused, Unavailable
from schema.message import Malformed, Message, level_of
from schema.proto.conn_pb2 import BroadcastRoomReply, BroadcastRoomReq
from schema.proto.logic_grpc import LogicBase
from schema.proto.logic_pb2 import AuthReply, AuthReq, LinkReply, LinkRequest

if TYPE_CHECKING:
    from grpclib.server import Stream

SERVICE: Final = "logic.Logic"


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """The bounds of one link.

    Attributes:
        window_items: sign-ins and publishes that may be unanswered.
        window_bytes: of their tokens and bodies.
        store_s: from the arrival of a publish; what is not stored by then is `Unavailable`.
    """

    window_items: int = 1024
    window_bytes: int = 2 * 1024 * 1024
    store_s: float = 4.0


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Links that are open and what is unanswered on them; frames, what they asked for, and what was
    refused or not done (by reason), since the start."""

    links: int
    unanswered: int
    frames: int
    sign_ins: int
    publishes: int
    not_done: Mapping[str, int]


class _Counts:
    """The counters behind `LinkStatistics`.  Owned by the service."""

    __slots__ = ("frames", "links", "not_done", "publishes", "sign_ins", "unanswered")

    def __init__(self) -> None:
        self.links = self.unanswered = self.frames = self.sign_ins = self.publishes = 0
        self.not_done: Counter[str] = Counter()


class LogicService(LogicBase):
    """Serves one `Logic`.  Owned by the logic server's app; each call is a task of the RPC server."""

    def __init__(self, logic: Logic, options: LinkOptions = LinkOptions()) -> None:
        self._logic = logic
        self._options = options
        self._counts = _Counts()

    async def Auth(self, stream: Stream[AuthReq, AuthReply]) -> None:
        """Check one token for a Go conn server.

        Raises:
            RpcError: UNKNOWN with the Go system's text where it is refused.
        """
        request = await stream.recv_message()
        try:
            grant = await self._logic.authenticate(request.token if request is not None else "")
        except (Refused, Unavailable) as error:
            raise _as_go(error) from error
        await stream.send_message(grant.to_reply())

    async def PushMsg(self, stream: Stream[BroadcastRoomReq, BroadcastRoomReply]) -> None:
        """Store one message for a Go conn server; what it cannot know about it is dropped.

        Raises:
            RpcError: UNKNOWN where it is refused, UNAVAILABLE where the queue has not got it.
        """
        request = await stream.recv_message()
        if request is None or not request.roomID or not request.data:
            raise RpcError(Status.UNKNOWN, NO_ROOM_OR_DATA)
        message = Message(request.roomID, level_of(request.msgLv), request.data)
        try:
            await self._logic.publish_foreign(message)
        except (Refused, Unavailable) as error:
            raise _as_go(error) from error
        await stream.send_message(BroadcastRoomReply())

    async def Link(self, stream: Stream[LinkRequest, LinkReply]) -> None:
        """Serve one conn server until it ends its side and all is answered.

        Cancelled (the peer has gone, or the drain's grace is over), what is being stored may be stored.

        Raises:
            RpcError: RESOURCE_EXHAUSTED where the peer asks for more than the window.
        """
        self._counts.links += 1
        link = _Link(stream, self._logic, self._options, self._counts)
        try:
            await link.run()
        finally:
            self._counts.links -= 1
            self._counts.unanswered -= link.unanswered

    def statistics(self) -> LinkStatistics:
        """Return what there is now and was so far."""
        counts = self._counts
        return LinkStatistics(
            counts.links,
            counts.unanswered,
            counts.frames,
            counts.sign_ins,
            counts.publishes,
            dict(counts.not_done),
        )


@dataclass(frozen=True, slots=True)
class _Frame:
    """The publishes of one request; `deadline` in Trio's time."""

    publishes: Iterable[LinkRequest.Publish]
    items: int
    size_bytes: int
    deadline: float


class _Link:
    """One link.  Owned by its call, and dies with it.

    Attributes:
        unanswered: items that were read and not answered.
    """

    def __init__(
        self, stream: Stream[LinkRequest, LinkReply], logic: Logic, options: LinkOptions, counts: _Counts
    ) -> None:
        self._stream = stream
        self._logic = logic
        self._options = options
        self._counts = counts
        self._turn = trio.Lock()  # two tasks answer, and large replies go in pieces
        self.unanswered = 0
        self._unanswered_bytes = 0

    async def run(self) -> None:
        """Serve until the peer has ended its side and all is answered."""
        window = LinkReply.Window(items=self._options.window_items, bytes=self._options.window_bytes)
        await self._stream.send_message(LinkReply(window=window))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_leaving)
            await self._serve()
            nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        # Never full: each frame has an item, and the window is checked first.
        frames, to_store = trio.open_memory_channel[_Frame](self._options.window_items)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store_all, to_store)
            async with frames:
                await self._read(frames)

    async def _tell_leaving(self) -> None:
        await stopping_of(self._stream).wait()
        await self._reply(LinkReply(leaving=True))

    async def _read(self, frames: trio.MemorySendChannel[_Frame]) -> None:
        while (request := await self._stream.recv_message()) is not None:
            token_bytes = sum(len(item.token.encode()) for item in request.sign_ins)
            body_bytes = sum(len(item.body) for item in request.publishes)
            self._admit(request, token_bytes + body_bytes)
            if request.publishes:
                deadline = trio.current_time() + self._options.store_s
                frames.send_nowait(_Frame(request.publishes, len(request.publishes), body_bytes, deadline))
            if request.sign_ins:
                reply = await self._check_tokens(request.sign_ins)
                self._answered(len(request.sign_ins), token_bytes)
                await self._reply(reply)

    def _admit(self, request: LinkRequest, size_bytes: int) -> None:
        counts = self._counts
        items = len(request.sign_ins) + len(request.publishes)
        self.unanswered += items
        self._unanswered_bytes += size_bytes
        counts.unanswered += items
        counts.frames += 1
        counts.sign_ins += len(request.sign_ins)
        counts.publishes += len(request.publishes)
        if (
            self.unanswered > self._options.window_items
            or self._unanswered_bytes > self._options.window_bytes
        ):
            counts.not_done["over_window"] += items
            raise RpcError(Status.RESOURCE_EXHAUSTED, "more than the window is unanswered")

    def _answered(self, items: int, size_bytes: int) -> None:
        """Give the room back; before the reply leaves, or the peer could use it before it is there."""
        self.unanswered -= items
        self._counts.unanswered -= items
        self._unanswered_bytes -= size_bytes

    async def _check_tokens(self, sign_ins: Iterable[LinkRequest.SignIn]) -> LinkReply:
        reply = LinkReply()
        verdicts = await self._logic.authenticate_many([item.token for item in sign_ins])
        for item, verdict in zip(sign_ins, verdicts, strict=True):
            if isinstance(verdict, Grant):
                reply.granted.add(id=item.id, grant=verdict.to_reply())
            else:
                self._add_not_done(reply, item.id, verdict)
        return reply

    async def _store_all(self, frames: trio.MemoryReceiveChannel[_Frame]) -> None:
        async for frame in frames:
            reply = await self._store(frame)
            self._answered(frame.items, frame.size_bytes)
            await self._reply(reply)

    async def _store(self, frame: _Frame) -> LinkReply:
        reply = LinkReply()
        ids: list[int] = []
        messages: list[Message] = []
        for item in frame.publishes:
            try:
                messages.append(Message.decode(item.body))
            except Malformed as problem:
                self._add_not_done(reply, item.id, Refused(Code.BAD_REQUEST, str(problem)))
            else:
                ids.append(item.id)
        verdicts = await self._logic.publish_many(messages, deadline=frame.deadline)
        for number, verdict in zip(ids, verdicts, strict=True):
            if verdict is None:
                reply.stored.append(number)
            else:
                self._add_not_done(reply, number, verdict)
        return reply

    def _add_not_done(self, reply: LinkReply, number: int, verdict: Refused | Unavailable) -> None:
        code = verdict.code if isinstance(verdict, Refused) else Code.UNAVAILABLE
        self._counts.not_done[code.name.lower()] += 1
        reply.not_done.add(id=number, code=code, text=verdict.text)

    async def _reply(self, reply: LinkReply) -> None:
        async with self._turn:
            await self._stream.send_message(reply)


def _as_go(error: Refused | Unavailable) -> RpcError:
    """Return a verdict as the Go system's conn server knows it."""
    status = Status.UNKNOWN if isinstance(error, Refused) else Status.UNAVAILABLE
    return RpcError(status, error.text)
