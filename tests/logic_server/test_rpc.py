"""The logic server's gRPC service over real sockets: unary as the Go system, and Link."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from logic_server.rpc import LinkOptions, LogicService
from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.server import RpcServer
from schema.access import BAD_SEGMENTS, NO_ROOM_OR_DATA, Unavailable
from schema.message import Level, Message
from schema.proto.conn_pb2 import BroadcastRoomReq
from schema.proto.logic_grpc import LogicStub
from schema.proto.logic_pb2 import AuthReq, LinkReply, LinkRequest
from tests.logic_server.fakes import FakeProducer, fake_logic, message, token
from tests.runtime.rpc.probe import LIMITS, serving, until

if TYPE_CHECKING:
    from grpclib.client import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).parents[2]
PEER = Path(__file__).parent / "peers" / "grpcio_client.py"


class Served:
    """A logic server for the length of a test."""

    def __init__(self, options: LinkOptions) -> None:
        self.producer = FakeProducer()
        self.logic = fake_logic(self.producer)
        self.service = LogicService(self.logic, options)
        self.server: RpcServer
        self.stub: LogicStub

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Stream[LinkRequest, LinkReply]]:
        """Open a link and take its window."""
        async with self.stub.Link.open() as call:
            await call.send_request()
            first = await call.recv_message()
            assert first is not None
            assert first.window.items
            yield call


@asynccontextmanager
async def logic_server(options: LinkOptions = LinkOptions()) -> AsyncIterator[Served]:  # noqa: B008  frozen
    served = Served(options)
    with trio.fail_after(20):
        async with (
            serving([served.service], limits=LIMITS) as served.server,
            open_channel(served.server.addresses[0], limits=LIMITS) as channel,
        ):
            served.stub = LogicStub(channel)
            yield served


def frame(*messages: Message, first: int = 1, tokens: Iterable[str] = ()) -> LinkRequest:
    """Return a frame whose ids count from `first`, publishes before sign-ins."""
    request = LinkRequest()
    for number, each in enumerate(messages, first):
        request.publishes.add(id=number, body=each.encode())
    for number, each_token in enumerate(tokens, first + len(messages)):
        request.sign_ins.add(id=number, token=each_token)
    return request


async def receive(call: Stream[LinkRequest, LinkReply]) -> LinkReply:
    reply = await call.recv_message()
    assert reply is not None
    return reply


async def failure_of(call: Stream[LinkRequest, LinkReply]) -> RpcError:
    try:
        async for _ in call:
            continue
    except RpcError as error:
        return error
    raise AssertionError("the call has ended well")


# -- unary, as the Go system


async def test_good_token_is_answered_with_uid_and_nickname() -> None:
    async with logic_server() as served:
        reply = await served.stub.Auth(AuthReq(token=token("42")))
    assert (reply.uid, reply.nickname, reply.roomID) == (42, "42", "")
    assert reply.may_post


async def test_refused_token_is_an_unknown_with_the_go_systems_text() -> None:
    async with logic_server() as served:
        with pytest.raises(RpcError) as caught:
            await served.stub.Auth(AuthReq(token="nonsense"))
    assert (caught.value.status, caught.value.text) == (Status.UNKNOWN, BAD_SEGMENTS)


async def test_pushed_message_is_stored_without_what_a_client_may_have_forged() -> None:
    async with logic_server() as served:
        forged = BroadcastRoomReq(roomID="r", msgLv=1, data=b"x", origin=1, origin_seq=2, sender="root")  # type: ignore[arg-type]
        await served.stub.PushMsg(forged)
    assert served.producer.messages == [Message("r", Level.IMPORTANT, b"x")]


@pytest.mark.parametrize("request_", [{"roomID": "r"}, {"data": b"x"}, {}], ids=str)
async def test_push_without_room_or_data_is_refused_in_the_go_systems_words(request_: dict[str, str]) -> None:
    async with logic_server() as served:
        with pytest.raises(RpcError) as caught:
            await served.stub.PushMsg(BroadcastRoomReq(**request_))  # type: ignore[arg-type]
    assert (caught.value.status, caught.value.text) == (Status.UNKNOWN, NO_ROOM_OR_DATA)
    assert served.producer.batches == []


async def test_push_that_the_queue_has_not_got_is_no_success() -> None:
    async with logic_server() as served:
        served.producer.failures.append(Unavailable("away"))
        with pytest.raises(RpcError) as caught:
            await served.stub.PushMsg(BroadcastRoomReq(roomID="r", data=b"x"))
    assert caught.value.status is Status.UNAVAILABLE


# -- Link


async def test_link_begins_with_its_window() -> None:
    async with logic_server(LinkOptions(window_items=5, window_bytes=77)) as served:
        async with served.stub.Link.open() as call:
            await call.send_request()
            first = await receive(call)
            await call.end()
            assert await call.recv_message() is None
        assert (first.window.items, first.window.bytes) == (5, 77)


async def test_frames_are_stored_in_the_order_in_which_they_were_sent() -> None:
    async with logic_server() as served, served.link() as call:
        for first in range(1, 401, 40):
            await call.send_message(frame(*map(message, range(first, first + 40)), first=first))
        stored: list[int] = []
        while len(stored) < 400:
            stored += (await receive(call)).stored
        await call.end()
        assert await call.recv_message() is None
    assert stored == [*range(1, 401)]
    assert [each.origin_seq for each in served.producer.messages] == stored
    assert max(served.producer.batches) == 40


async def test_frame_is_not_begun_before_the_one_in_front_is_stored() -> None:
    async with logic_server() as served:
        served.producer.gate = trio.Event()
        async with served.link() as call:
            await call.send_message(frame(message(1)))
            await call.send_message(frame(message(2), first=2))
            await until(lambda: served.service.statistics().unanswered == 2 and bool(served.producer.batches))
            assert served.producer.batches == [1]
            served.producer.gate.set()
            assert (await receive(call)).stored == [1]
            assert (await receive(call)).stored == [2]
    assert [each.origin_seq for each in served.producer.messages] == [1, 2]


async def test_sign_ins_do_not_wait_for_the_queue() -> None:
    async with logic_server() as served:
        served.producer.gate = trio.Event()
        async with served.link() as call:
            await call.send_message(frame(message(1), tokens=[token("7"), "nonsense"]))
            reply = await receive(call)
            assert [(each.id, each.grant.nickname) for each in reply.granted] == [(2, "7")]
            assert [(each.id, each.code, each.text) for each in reply.not_done] == [(3, 100, BAD_SEGMENTS)]
            served.producer.gate.set()
            assert (await receive(call)).stored == [1]


async def test_each_item_gets_its_own_verdict() -> None:
    async with logic_server() as served:
        served.producer.poison = message(4).encode()
        request = frame(message(1), message(2, room="a\nb"), message(3, data=b"x" * 61_441), message(4))
        request.publishes.add(id=5, body=b"\x08")
        request.publishes.add(id=6, body=b"")
        async with served.link() as call:
            await call.send_message(request)
            reply = await receive(call)
    assert reply.stored == [1]
    codes = {each.id: each.code for each in reply.not_done}
    assert codes == {2: 400, 3: 413, 4: 413, 5: 400, 6: 400}
    assert served.service.statistics().not_done == {"bad_request": 3, "too_large": 2}


async def test_what_the_queue_has_not_got_is_to_be_tried_again() -> None:
    async with logic_server() as served:
        served.producer.failures.extend([Unavailable("away")] * 4)
        async with served.link() as call:
            await call.send_message(frame(message(1)))
            (not_done,) = (await receive(call)).not_done
    assert (not_done.id, not_done.code, not_done.text) == (1, 503, "away")


async def test_what_has_waited_too_long_behind_a_stuck_queue_is_not_stored_any_more() -> None:
    async with logic_server(LinkOptions(store_s=0.2)) as served:
        served.producer.gate = trio.Event()
        async with served.link() as call:
            await call.send_message(frame(message(1)))
            await call.send_message(frame(message(2), first=2))
            assert [each.code for each in (await receive(call)).not_done] == [503]
            assert [each.code for each in (await receive(call)).not_done] == [503]
        assert served.producer.batches == [1]
        assert served.producer.stored == []


@pytest.mark.parametrize(
    "options", [LinkOptions(window_items=3), LinkOptions(window_bytes=100)], ids=["items", "bytes"]
)
async def test_link_that_asks_for_more_than_its_window_is_ended(options: LinkOptions) -> None:
    async with logic_server(options) as served:
        served.producer.gate = trio.Event()
        async with served.link() as call:
            await call.send_message(frame(message(1)))
            await call.send_message(frame(*map(message, (2, 3, 4)), first=2))
            error = await failure_of(call)
        assert error.status is Status.RESOURCE_EXHAUSTED
        await until(lambda: served.service.statistics().links == 0)
        statistics = served.service.statistics()
        assert (statistics.unanswered, statistics.not_done) == (0, {"over_window": 3})


async def test_window_opens_again_with_each_answer() -> None:
    async with logic_server(LinkOptions(window_items=2)) as served, served.link() as call:
        for number in range(1, 50, 2):
            await call.send_message(frame(message(number), message(number + 1), first=number))
            assert (await receive(call)).stored == [number, number + 1]
        await call.send_message(frame(tokens=[token(), token()], first=99))
        assert [each.id for each in (await receive(call)).granted] == [99, 100]


async def test_draining_server_says_so_and_answers_what_it_was_asked() -> None:
    async with logic_server() as served:
        served.producer.gate = trio.Event()
        async with served.link() as call:
            await call.send_message(frame(message(1)))
            await until(lambda: served.service.statistics().unanswered == 1)
            served.server.drain(grace_s=5)
            assert (await receive(call)).leaving
            # Sent before the news came.
            await call.send_message(frame(message(2), first=2))
            served.producer.gate.set()
            assert (await receive(call)).stored == [1]
            assert (await receive(call)).stored == [2]
            await call.end()
            assert await call.recv_message() is None
        await until(lambda: served.service.statistics().links == 0)


async def test_conn_server_that_goes_leaves_nothing_behind() -> None:
    async with logic_server() as served:
        served.producer.gate = trio.Event()
        async with served.link() as call:
            await call.send_message(frame(message(1)))
            await call.send_message(frame(message(2), first=2))
            await until(lambda: served.service.statistics().unanswered == 2)
        await until(lambda: served.service.statistics().links == 0)
        assert served.service.statistics().unanswered == 0
        assert served.logic.statistics().publish.waiting == 0
        # Others are served as before.
        served.producer.gate.set()
        async with served.link() as call:
            await call.send_message(frame(message(3)))
            assert (await receive(call)).stored == [1]


async def test_grpcio_speaks_to_us_as_a_conn_server() -> None:
    async with logic_server() as served:
        command = [sys.executable, str(PEER), served.server.addresses[0], token("42")]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE"}
        done = await trio.run_process(command, capture_stdout=True, env=environment)
        await until(lambda: served.server.statistics().in_flight == 0)
    assert json.loads(done.stdout) == {
        "auth": "42",
        "refused": ["UNKNOWN", BAD_SEGMENTS],
        "push": 0,
        "empty push": ["UNKNOWN", NO_ROOM_OR_DATA],
        "link": {
            "window": [True, True],
            "stored": True,
            "granted": ["42"],
            "not done": [100],
            "rest": 0,
            "status": "OK",
        },
    }
    assert served.producer.messages[0] == Message("lobby", Level.NORMAL, b"unary")
    assert [each.origin_seq for each in served.producer.messages[1:]] == [*range(1, 301)]
