from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from job_worker.delivery import Lanes
from job_worker.merge import push_of
from job_worker.rpc import RemoteConn
from job_worker.settings import Lane
from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.server import RpcServer, serve_rpc
from schema.access import Refused, Unavailable
from schema.message import Level, Push
from schema.proto.conn_grpc import ConnBase
from schema.proto.conn_pb2 import BroadcastRoomReply, BroadcastRoomReq
from tests.job_worker.fakes import LOG, message, numbers
from tests.job_worker.test_feed import Said

if TYPE_CHECKING:
    from grpclib.server import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")

FREE = "127.0.0.1:0"


class RecordingConn(ConnBase):
    """A conn server that remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[BroadcastRoomReq] = []
        self.error: RpcError | None = None
        self.stalls = False
        self.received = trio.Event()

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


async def test_push_arrives_with_all_it_has(nursery: trio.Nursery) -> None:
    conn = RecordingConn()
    server = await serve_conn(nursery, conn)
    async with open_channel(server.addresses[0]) as channel:
        await RemoteConn(channel, 3.0).broadcast(push(1, 2))
        await RemoteConn(channel, 3.0).broadcast(push(3, level=Level.IMPORTANT))
    assert [Push.of(request) for request in conn.requests] == [push(1, 2), push(3, level=Level.IMPORTANT)]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.UNAVAILABLE, Unavailable),
        (Status.INTERNAL, Unavailable),
        (Status.UNIMPLEMENTED, Unavailable),
        (Status.UNKNOWN, Refused),
        (Status.RESOURCE_EXHAUSTED, Refused),
        (Status.INVALID_ARGUMENT, Refused),
    ],
)
async def test_status_says_whether_to_try_again(
    nursery: trio.Nursery, status: Status, expected: type[Exception]
) -> None:
    conn = RecordingConn()
    conn.error = RpcError(status, "why")
    server = await serve_conn(nursery, conn)
    async with open_channel(server.addresses[0]) as channel:
        with pytest.raises(expected, match="why"):
            await RemoteConn(channel, 3.0).broadcast(push(1))
    nursery.cancel_scope.cancel()


async def test_conn_server_that_does_not_answer_in_time_is_unavailable(nursery: trio.Nursery) -> None:
    conn = RecordingConn()
    conn.stalls = True
    server = await serve_conn(nursery, conn)
    async with open_channel(server.addresses[0]) as channel:
        with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
            await RemoteConn(channel, 0.1).broadcast(push(1))
    nursery.cancel_scope.cancel()


async def test_lane_over_a_real_link_keeps_order_and_survives_a_restart(nursery: trio.Nursery) -> None:
    first, second = RecordingConn(), RecordingConn()
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
        await links.start(lanes.run_lane, address, RemoteConn(channel, 1.0))
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
    async with open_channel(address) as channel:
        task_status.started(channel)
        await trio.sleep_forever()
