"""gRPC at the conn server: what job workers call, and the links to the logic servers.

open_logic
 |- clock: the deadlines of who finds no logic server, and of who is not answered
 `- follow discovery: per logic server, one task
     `- channel (connects again by itself)
         |- Link: send frames, receive answers, watch the peer's answering     or, for a Go logic server,
         `- unary calls, `CALLERS` at a time, until the connection is lost; then Link is tried again
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from conn_server.lanes import Ask, End, Lane, Outcome, UnaryLane
from conn_server.links import LogicLinks, LogicOptions
from runtime.discovery import Peers
from runtime.rpc.channel import Backoff, Channel, open_channel
from runtime.rpc.errors import RpcError, Status, unavailable
from runtime.rpc.handling import stopping_of
from schema.access import NO_ROOM_OR_DATA, Code, Grant, Refused, Unavailable
from schema.message import Malformed, Push
from schema.proto.conn_grpc import ConnBase
from schema.proto.conn_pb2 import BroadcastRoomReply, BroadcastRoomReq, DeliverReply, DeliverRequest
from schema.proto.logic_grpc import LogicStub
from schema.proto.logic_pb2 import AuthReq, LinkReply, LinkRequest

if TYPE_CHECKING:
    from grpclib.client import Stream as ClientStream
    from grpclib.server import Stream

SERVICE: Final = "conn.Conn"
CALLERS: Final = 16
GONE: Final = "discovery does not name it any more"
"""Opened too late: there may be another link to the same address, whose lane this one would replace."""

_log: Final[FilteringBoundLogger] = structlog.get_logger("logic")


class Broadcasts(Protocol):
    """Who sends a push to the members here."""

    async def broadcast(self, *pushes: Push) -> int:
        """Send `pushes`, all of one room; return to how many."""


@dataclass(frozen=True, slots=True)
class ConnServiceStatistics:
    """Streams of job workers that are open; pushes that job workers sent, in how many requests and calls,
    and those that were none."""

    streams: int
    requests: int
    pushes: int
    malformed: int


class ConnService(ConnBase):
    """What job workers call, ours and the Go system's.  Owned by the conn server's app."""

    def __init__(self, broadcaster: Broadcasts) -> None:
        self._broadcaster = broadcaster
        self._streams = self._requests = self._pushes = self._malformed = 0

    async def Deliver(self, stream: Stream[DeliverRequest, DeliverReply]) -> None:
        """Send pushes to the members here, one after the other, until the job worker or a drain ends it.

        Each is answered when it has been handed to all members; what is not answered may have been.  A job
        worker that sends faster than members can be sent to is held back by HTTP/2's flow control.
        """
        self._streams += 1
        try:
            await stream.send_message(DeliverReply(open=True))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_with, stopping_of(stream), nursery.cancel_scope)
                while (request := await stream.recv_message()) is not None:
                    await stream.send_message(await self._deliver(request))
                nursery.cancel_scope.cancel()
        finally:
            self._streams -= 1

    async def _deliver(self, request: DeliverRequest) -> DeliverReply:
        reply, pushes = DeliverReply(), []
        self._requests += 1
        for batch in request.batches:
            try:
                pushes.append(Push.decode(batch.push))
            except Malformed as problem:
                self._malformed += 1
                reply.refused.add(number=batch.number, text=str(problem))
            else:
                reply.taken.append(batch.number)
        self._pushes += len(pushes)
        for _, of_room in groupby(pushes, attrgetter("room")):
            await self._broadcaster.broadcast(*of_room)
        return reply

    async def BroadcastRoom(self, stream: Stream[BroadcastRoomReq, BroadcastRoomReply]) -> None:
        """Send one push to the room's members here; answer when it has been handed to all of them.

        Raises:
            RpcError: UNKNOWN with the Go system's text where it has no room or no data.
        """
        request = await stream.recv_message()
        self._requests += 1
        try:
            push = Push.of(request or BroadcastRoomReq())
        except Malformed as problem:
            self._malformed += 1
            raise RpcError(Status.UNKNOWN, str(problem)) from problem
        self._pushes += 1
        await self._broadcaster.broadcast(push)
        await stream.send_message(BroadcastRoomReply())

    def statistics(self) -> ConnServiceStatistics:
        """Return the counts since the start."""
        return ConnServiceStatistics(self._streams, self._requests, self._pushes, self._malformed)


async def _end_with(stopping: trio.Event, scope: trio.CancelScope) -> None:
    await stopping.wait()
    scope.cancel()


@asynccontextmanager
async def open_logic(peers: Peers, options: LogicOptions) -> AsyncIterator[LogicLinks]:
    """Open links to all of `peers`, and follow them as they come and go.

    Leaving the context ends the links at once: whoever asks something leaves first.
    """
    links = LogicLinks(options)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(links.run_clock)
        nursery.start_soon(_follow, peers, links, options)
        try:
            yield links
        except Exception as error:  # raised below, not wrapped in this nursery's group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _follow(peers: Peers, links: LogicLinks, options: LogicOptions) -> None:
    """Keep one link to each logic server that discovery names, until cancelled."""
    running: dict[str, _LogicServer] = {}
    addresses = peers.addresses
    async with trio.open_nursery() as nursery:
        while True:
            for address in running.keys() - addresses:
                running.pop(address).leave()
            for address in sorted(addresses - running.keys()):
                server = running[address] = _LogicServer(address, links, options)
                nursery.start_soon(server.run, name=f"link to {address}")
            addresses = await peers.wait_changed(addresses)


class _LogicServer:
    """The way to one logic server.  Owned by its task."""

    def __init__(self, address: str, links: LogicLinks, options: LogicOptions) -> None:
        self._address = address
        self._links = links
        self._options = options
        self._backoff = Backoff(options.rpc.backoff_s, options.rpc.backoff_cap_s, random.Random())  # noqa: S311
        self._gone = trio.Event()
        self._work = trio.Event()  # replaced when set
        self._leaving = False  # the link that there is now

    def leave(self) -> None:
        """Ask nothing more, and end when all is answered: discovery does not name it any more."""
        self._gone.set()
        self._wake()

    def _wake(self) -> None:
        self._work.set()

    async def run(self) -> None:
        """Keep the link, until discovery does not name the server any more."""
        options = self._options
        async with open_channel(
            self._address, tls=options.tls, server_name=options.server_name, limits=options.rpc
        ) as channel:
            while not self._gone.is_set():
                try:
                    problem = await self._serve(channel)
                except RpcError as error:
                    problem = str(error)
                if not self._gone.is_set():
                    _log.debug("no link", address=self._address, problem=problem)
                    await trio.sleep(self._backoff.draw_s())

    async def _serve(self, channel: Channel) -> str:
        """Open a link and keep it; return why it has ended.

        Raises:
            RpcError: it could not be opened.
        """
        stub = LogicStub(channel)
        async with stub.Link.open() as call:
            try:
                window = await self._open(call)
            except RpcError as error:
                if error.status is not Status.UNIMPLEMENTED:
                    raise
                window = None
            if window is not None:
                return await self._run_link(call, window)
        return await self._run_unary(channel, stub)

    async def _open(self, call: ClientStream[LinkRequest, LinkReply]) -> LinkReply.Window:
        with trio.move_on_after(self._options.open_s):
            await call.send_request()
            first = await call.recv_message()
            if first is not None and first.window.items and first.window.bytes:
                return first.window
            raise RpcError(Status.INTERNAL, "a link that begins without a window")
        raise unavailable("no answer to the opening of a link")

    async def _run_link(self, call: ClientStream[LinkRequest, LinkReply], window: LinkReply.Window) -> str:
        """Send and receive until the link ends; return why it has."""
        if self._gone.is_set():
            return GONE
        self._leaving = False
        lane = Lane(window, self._links.tally, self._links.settle, self._wake)
        self._links.lane_opened(self._address, lane)
        self._backoff.reset()
        _log.info("link open", address=self._address)
        problem = "cancelled"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, call, lane)
                nursery.start_soon(self._watch, call, lane)
                problem = await self._receive(call, lane)
                nursery.cancel_scope.cancel()
        finally:
            self._links.lane_lost(self._address, lane)
        if not self._leaving:
            _log.warning("link lost", address=self._address, problem=problem)
        return problem

    async def _send(self, call: ClientStream[LinkRequest, LinkReply], lane: Lane) -> None:
        try:
            while True:
                if self._gone.is_set():
                    self._retire(lane)
                frame = lane.take(trio.current_time())
                if frame is not None:
                    await call.send_message(frame)
                elif self._leaving and lane.is_idle:
                    return await call.end()
                else:
                    await self._work.wait()
                    self._work = trio.Event()
        except RpcError:
            return None  # whoever receives is told the same, and says so

    async def _receive(self, call: ClientStream[LinkRequest, LinkReply], lane: Lane) -> str:
        """Settle what is answered until the link ends; return why it has."""
        try:
            while (reply := await call.recv_message()) is not None:
                lane.answered(reply)
                if reply.leaving:
                    self._retire(lane)
                self._wake()
        except RpcError as error:
            return str(error)
        return "the logic server has ended it"

    def _retire(self, lane: Lane) -> None:
        self._leaving = True
        self._links.lane_retired(self._address, lane)

    async def _watch(self, call: ClientStream[LinkRequest, LinkReply], lane: Lane) -> None:
        """Give the link up when the peer leaves something unanswered for too long."""
        stall_s = self._options.stall_s
        while True:
            await trio.sleep(stall_s / 4)
            oldest = lane.oldest()
            if oldest is not None and oldest + stall_s <= trio.current_time():
                await call.cancel()

    async def _run_unary(self, channel: Channel, stub: LogicStub) -> str:
        """Call a Go logic server until its connection is lost; return why that was."""
        if self._gone.is_set():
            return GONE
        callers = trio.lowlevel.ParkingLot()
        lane = UnaryLane(CALLERS, self._links.tally, self._links.settle, lambda: _wake_all(callers))
        self._links.lane_opened(self._address, lane)
        self._backoff.reset()
        _log.info("no Link there, calling one by one", address=self._address)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(CALLERS):
                    nursery.start_soon(self._call, stub, lane, number, callers)
                nursery.start_soon(self._finish_calls, lane, nursery.cancel_scope)
                while channel.ready:
                    await channel.wait_changed()
                nursery.cancel_scope.cancel()
        finally:
            self._links.lane_lost(self._address, lane)
        return channel.problem

    async def _call(
        self, stub: LogicStub, lane: UnaryLane, number: int, callers: trio.lowlevel.ParkingLot
    ) -> None:
        while True:
            ask = lane.take(number)
            if ask is None:
                await callers.park()
            else:
                lane.answered(number, await self._ask(stub, ask))
                self._wake()

    async def _ask(self, stub: LogicStub, ask: Ask) -> Outcome:
        try:
            if ask.token is not None:
                request = AuthReq(token=ask.token)
                return Grant.of_reply(await stub.Auth(request, timeout=self._options.call_s))
            await stub.PushMsg(BroadcastRoomReq.FromString(ask.body), timeout=self._options.call_s)
            return End.STORED
        except RpcError as error:
            return _of_go(error, is_sign_in=ask.token is not None)

    async def _finish_calls(self, lane: UnaryLane, scope: trio.CancelScope) -> None:
        """End the calls of a server that discovery does not name any more."""
        await self._gone.wait()
        self._links.lane_retired(self._address, lane)
        while not lane.is_idle:
            await self._work.wait()
            self._work = trio.Event()
        scope.cancel()


def _wake_all(callers: trio.lowlevel.ParkingLot) -> None:
    callers.unpark_all()


def _of_go(error: RpcError, *, is_sign_in: bool) -> Refused | Unavailable:
    """Return what a Go logic server has said: every refusal of its handlers is an UNKNOWN with a text."""
    if error.status is not Status.UNKNOWN:
        return Unavailable(f"logic: {error}")
    if is_sign_in:
        return Refused(Code.NOT_SIGNED_IN, error.text)
    if error.text == NO_ROOM_OR_DATA:
        return Refused(Code.BAD_REQUEST, error.text)
    return Unavailable(error.text)
