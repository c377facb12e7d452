from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from job_worker.delivery import Lanes
from job_worker.merge import push_of
from job_worker.rpc import RemoteConn
from job_worker.settings import Lane
from job_worker.stream import MAX_REQUEST_BYTES, DeliverStream
from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.server import RpcServer, serve_rpc
from schema.access import Unavailable
from schema.message import Level, Push
from schema.proto.conn_grpc import ConnBase
from schema.proto.conn_pb2 import BroadcastRoomReply, BroadcastRoomReq, DeliverReply, DeliverRequest
from tests.job_worker.fakes import LOG, message, numbers
from tests.job_worker.test_feed import Said
from tests.runtime.rpc.probe import LIMITS

if TYPE_CHECKING:
    from grpclib.server import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")

FREE = "127.0.0.1:0"


class RecordingConn(ConnBase):
    """A conn server that remembers what it was sent.

    Args:
        is_go: it has no Deliver.

    Attributes:
        requests: pushes that it took.
        error: that it answers calls with, if it has no Deliver.
        refused: text with which it refuses pushes, if any.
        stalls: it reads, and answers nothing.
        batches: of each Deliver request, and `sizes` in bytes.
        streams: that were opened.
    """

    def __init__(self, *, is_go: bool = False) -> None:
        self.is_go = is_go
        self.requests: list[BroadcastRoomReq] = []
        self.error: RpcError | None = None
        self.refused = ""
        self.stalls = False
        self.received = trio.Event()
        self.batches: list[int] = []
        self.sizes: list[int] = []
        self.streams = 0

    async def BroadcastRoom(self, stream: Stream[BroadcastRoomReq, BroadcastRoomReply]) -> None:  # noqa: N802
        request = await stream.recv_message()
        assert request is not None
        if self.stalls:
            await trio.sleep_forever()
        if self.error is not None:
            raise self.error
        self.requests.append(request)
        self.received.set()
        await stream.send_message(BroadcastRoomReply())

    async def Deliver(self, stream: Stream[DeliverRequest, DeliverReply]) -> None:  # noqa: N802
        if self.is_go:
            raise RpcError(Status.UNIMPLEMENTED, "unknown method Deliver")
        self.streams += 1
        await stream.send_message(DeliverReply(open=True))
        while (request := await stream.recv_message()) is not None:
            self.batches.append(len(request.batches))
            self.sizes.append(request.ByteSize())
            self.received.set()
            if self.stalls:
                await trio.sleep_forever()
            reply = DeliverReply()
            for batch in request.batches:
                if self.refused:
                    reply.refused.add(number=batch.number, text=self.refused)
                else:
                    self.requests.append(BroadcastRoomReq.FromString(batch.push))
                    reply.taken.append(batch.number)
            await stream.send_message(reply)

    def numbers(self, room: str) -> list[int]:
        pushes = [Push.of(request) for request in self.requests if request.roomID == room]
        return [number for push in pushes for number in numbers(push)]


def push(*names: int, room: str = "大厅", level: Level = Level.NORMAL) -> Push:
    return push_of([Said(message(name, room, level)) for name in names])


async def serve_conn(
    nursery: trio.Nursery, conn: RecordingConn, address: str = FREE, *, tls: ssl.SSLContext | None = None
) -> RpcServer:
    server: RpcServer = await nursery.start(partial(serve_rpc, [conn], address, tls=tls))
    return server


@asynccontextmanager
async def reaching(conn: RecordingConn, *, timeout_s: float = 3.0) -> AsyncIterator[RemoteConn]:
    """Serve `conn` and open the way to it."""
    async with trio.open_nursery() as nursery:
        server = await serve_conn(nursery, conn)
        async with open_channel(server.addresses[0], limits=LIMITS) as channel, trio.open_nursery() as way:
            remote = RemoteConn(channel, timeout_s, LOG, LIMITS)
            way.start_soon(remote.run)
            yield remote
            way.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


GO = pytest.mark.parametrize("is_go", [False, True], ids=["ours", "Go"])


@GO
async def test_push_arrives_with_all_it_has(is_go: bool) -> None:
    conn = RecordingConn(is_go=is_go)
    async with reaching(conn) as remote:
        await remote.broadcast([push(1, 2)])
        await remote.broadcast([push(3, level=Level.IMPORTANT)])
    assert [Push.of(request) for request in conn.requests] == [push(1, 2), push(3, level=Level.IMPORTANT)]
    assert conn.streams == (not is_go)


async def test_pushes_that_gather_share_requests_and_keep_their_order() -> None:
    conn = RecordingConn()
    async with reaching(conn) as remote:
        await remote.broadcast([push(0)])
        async with trio.open_nursery() as callers:
            for number in range(1, 65):
                callers.start_soon(remote.broadcast, [push(number)])
                await trio.testing.wait_all_tasks_blocked()
    assert conn.numbers("大厅") == list(range(65))
    assert (sum(conn.batches), conn.streams) == (65, 1)


async def test_request_is_bounded_whatever_has_gathered() -> None:
    conn = RecordingConn()
    sizes = [MAX_REQUEST_BYTES // 3, MAX_REQUEST_BYTES // 3, 2 * MAX_REQUEST_BYTES, 1, 1]
    async with reaching(conn) as remote:
        await remote.broadcast([push(0)])
        async with trio.open_nursery() as callers:
            for size in sizes:
                callers.start_soon(remote.broadcast, [Push("lobby", Level.NORMAL, bytes(size))])
                await trio.lowlevel.checkpoint()
    assert len(conn.requests) == 6
    assert sum(conn.batches) == 6
    assert all(
        batches == 1 or size_bytes <= MAX_REQUEST_BYTES + 100
        for batches, size_bytes in zip(conn.batches, conn.sizes, strict=True)
    )
    assert max(conn.batches) > 1


@pytest.mark.parametrize("status", [Status.UNAVAILABLE, Status.INTERNAL, Status.UNIMPLEMENTED])
async def test_status_of_a_go_conn_server_may_mean_to_try_again(status: Status) -> None:
    conn = RecordingConn(is_go=True)
    conn.error = RpcError(status, "why")
    async with reaching(conn) as remote:
        with pytest.raises(Unavailable, match="why"):
            await remote.broadcast([push(1)])


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.RESOURCE_EXHAUSTED, Status.INVALID_ARGUMENT])
async def test_status_of_a_go_conn_server_may_mean_never_to_try_again(status: Status) -> None:
    conn = RecordingConn(is_go=True)
    conn.error = RpcError(status, "why")
    async with reaching(conn) as remote:
        (refusal,) = await remote.broadcast([push(1)])
    assert refusal is not None
    assert "why" in refusal.text


@GO
async def test_burst_is_one_request_or_its_first_push_is_one_call(is_go: bool) -> None:
    conn = RecordingConn(is_go=is_go)
    async with reaching(conn) as remote:
        outcomes = await remote.broadcast([push(1), push(2), push(3)])
    assert outcomes == ([None] if is_go else [None] * 3)
    assert conn.numbers("大厅") == ([1] if is_go else [1, 2, 3])
    assert conn.batches == ([] if is_go else [3])


async def test_what_is_refused_is_told_with_its_reason_and_the_stream_goes_on() -> None:
    conn = RecordingConn()
    conn.refused = "缺少roomID或data参数"
    async with reaching(conn) as remote:
        refusals = await remote.broadcast([push(1), push(2)])
        conn.refused = ""
        assert await remote.broadcast([push(3)]) == [None]
    assert [refusal and refusal.text for refusal in refusals] == ["缺少roomID或data参数"] * 2
    assert (conn.numbers("大厅"), conn.streams) == ([3], 1)


async def test_go_conn_server_that_does_not_answer_in_time_is_unavailable() -> None:
    conn = RecordingConn(is_go=True)
    conn.stalls = True
    async with reaching(conn, timeout_s=0.1) as remote:
        with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
            await remote.broadcast([push(1)])


async def test_stream_that_does_not_answer_in_time_is_given_up_and_opened_again() -> None:
    """What is tried again on the same stream would follow a first copy, and be heard twice."""
    conn = RecordingConn()
    conn.stalls = True
    others: list[str] = []

    async def fail() -> None:
        with pytest.raises(Unavailable, match="no answer in time"):
            await remote.broadcast([push(2)])
        others.append("told")

    async with reaching(conn) as remote, trio.open_nursery() as nursery:
        with trio.move_on_after(0.3) as waiting:
            nursery.start_soon(fail)
            await remote.broadcast([push(1)])
        assert waiting.cancelled_caught
        conn.stalls = False
        await until_taken(remote, push(1))
    assert (conn.numbers("大厅"), conn.streams, others) == ([1], 2, ["told"])


class SlowCall:
    """A Deliver call of a peer that takes requests one at a time, when the test says so."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []
        self._credit = trio.Semaphore(0)

    def take_one(self) -> None:
        self._credit.release()

    async def send_message(self, request: DeliverRequest) -> None:
        await self._credit.acquire()
        self.sent.append([number for each in request.batches for number in numbers(Push.decode(each.push))])

    async def recv_message(self) -> DeliverReply | None:
        await trio.sleep_forever()


class AnsweringCall(SlowCall):
    """The same, which answers what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.send, self._receive = trio.open_memory_channel[DeliverReply](9)

    async def recv_message(self) -> DeliverReply | None:
        async for reply in self._receive:
            return reply
        return None


async def test_stream_that_ends_in_the_middle_of_a_burst_tells_what_was_taken_of_it(
    nursery: trio.Nursery,
) -> None:
    call = AnsweringCall()
    stream = DeliverStream(call)
    nursery.start_soon(stream.run)
    told: list[object] = []

    async def tell(*names: int) -> None:
        try:
            told.append(await stream.push([push(name) for name in names]))
        except Unavailable as error:
            told.append(error.text)

    for names in ((1, 2, 3), (4, 5)):
        nursery.start_soon(tell, *names)
        await trio.testing.wait_all_tasks_blocked()
        call.take_one()
        await trio.testing.wait_all_tasks_blocked()
    # 3 is taken, too, says a conn server of another kind: what is before it is not known to be.
    call.send.send_nowait(DeliverReply(taken=[1, 3]))
    await trio.testing.wait_all_tasks_blocked()
    assert told == []
    call.send.close()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(map(str, told)) == ["[None]", "the conn server has ended the stream"]


async def test_push_that_is_cancelled_before_it_leaves_never_does(nursery: trio.Nursery) -> None:
    call, leaving = SlowCall(), trio.CancelScope()
    stream = DeliverStream(call)

    async def leave() -> None:
        with leaving:
            await stream.push([push(2)])

    nursery.start_soon(stream.run)
    for begin in (partial(stream.push, [push(0)]), partial(stream.push, [push(1)]), leave):
        nursery.start_soon(begin)
        await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(stream.push, [push(3)])
    leaving.cancel()
    for _ in range(2):
        await trio.testing.wait_all_tasks_blocked()
        call.take_one()
    await trio.testing.wait_all_tasks_blocked()
    assert call.sent == [[0], [1, 3]]
    nursery.cancel_scope.cancel()


async def test_without_a_way_a_push_waits_for_one_and_says_why_there_is_none(nursery: trio.Nursery) -> None:
    conn = RecordingConn()
    server = await serve_conn(nursery, conn)
    address = server.addresses[0]
    async with open_channel(address, limits=LIMITS) as channel, trio.open_nursery() as way:
        remote = RemoteConn(channel, 0.5, LOG, LIMITS)
        way.start_soon(remote.run)
        await remote.broadcast([push(1)])
        server.drain(grace_s=0)
        with trio.fail_after(5):
            while (problem := await problem_of(remote, push(2))) is None:
                pass
        assert problem
        back = RecordingConn()
        async with trio.open_nursery() as callers:
            callers.start_soon(until_taken, remote, push(3))
            await serve_conn(nursery, back, address)
        way.cancel_scope.cancel()
    assert back.numbers("大厅") == [3]
    nursery.cancel_scope.cancel()


async def problem_of(remote: RemoteConn, batch: Push) -> str | None:
    try:
        await remote.broadcast([batch])
    except Unavailable as error:
        return error.text
    return None


async def until_taken(remote: RemoteConn, batch: Push) -> None:
    with trio.fail_after(5):
        while True:
            with suppress(Unavailable):
                assert await remote.broadcast([batch]) == [None]
                return


async def test_peer_that_opens_the_stream_with_something_else_is_not_taken_for_a_conn_server() -> None:
    class Odd(RecordingConn):
        async def Deliver(self, stream: Stream[DeliverRequest, DeliverReply]) -> None:  # noqa: N802
            await stream.send_message(DeliverReply(taken=[1]))
            await trio.sleep_forever()

    async with reaching(Odd(), timeout_s=0.3) as remote:
        with pytest.raises(Unavailable, match="begins without its opening"):
            await remote.broadcast([push(1)])


@GO
async def test_lane_over_a_real_link_keeps_order_and_survives_a_restart(
    nursery: trio.Nursery, is_go: bool
) -> None:
    first, second = RecordingConn(is_go=is_go), RecordingConn(is_go=is_go)
    server = await serve_conn(nursery, first)
    address = server.addresses[0]
    told: dict[int, bool] = {}
    lanes = Lanes(Lane(call_timeout_s=1.0), LOG)

    def hand_over(name: int) -> None:
        lanes.hand_over(push(name, room=f"room{name % 5}"), lambda handed: told.update({name: handed}))

    async def until_told(count: int) -> None:
        with trio.fail_after(10):
            while len(told) < count:  # noqa: ASYNC110  what is waited for is told by callbacks
                await trio.sleep(0.005)

    async with trio.open_nursery() as links:
        channel = await links.start(run_channel, address)
        remote = RemoteConn(channel, 1.0, LOG, LIMITS)
        links.start_soon(remote.run)
        await links.start(lanes.run_lane, address, remote)
        for name in range(50):
            hand_over(name)
        await until_told(50)
        server.drain(grace_s=0.1)
        for name in range(50, 60):
            hand_over(name)
        await trio.sleep(0.2)
        await serve_conn(nursery, second, address)
        await until_told(60)
        links.cancel_scope.cancel()
    assert all(told.values())
    for room in range(5):
        got = first.numbers(f"room{room}") + second.numbers(f"room{room}")
        assert list(dict.fromkeys(got)) == list(range(room, 60, 5))
    nursery.cancel_scope.cancel()


async def run_channel(address: str, *, task_status: trio.TaskStatus[object]) -> None:
    async with open_channel(address, limits=LIMITS) as channel:
        task_status.started(channel)
        await trio.sleep_forever()
