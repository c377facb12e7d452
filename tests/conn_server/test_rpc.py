"""gRPC at the conn server: pushes of job workers, and the links to logic servers over real sockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from conn_server.links import LogicLinks
from conn_server.rpc import ConnService, open_logic
from logic_server.rpc import LogicService
from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.server import RpcServer
from runtime.rpc.tls import client_tls, server_tls
from schema.access import BAD_SEGMENTS, NO_ROOM_OR_DATA, Code, Grant, Refused, Unavailable
from schema.batch import pack, unpack
from schema.message import Item, Level, Message, Push
from schema.proto.conn_grpc import ConnStub
from schema.proto.conn_pb2 import BroadcastRoomReply, BroadcastRoomReq, DeliverReply, DeliverRequest
from schema.proto.logic_grpc import LogicBase
from schema.proto.logic_pb2 import AuthReply, AuthReq, LinkReply, LinkRequest
from tests.conn_server.logic_nodes import OPTIONS, FakePeers, linked, nodes
from tests.logic_server.fakes import FakeProducer, fake_logic, message, token
from tests.runtime.rpc.certificates import make_certificates
from tests.runtime.rpc.probe import LIMITS, serving, until

if TYPE_CHECKING:
    from grpclib.server import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE"}


async def publish(links: LogicLinks, *numbers: int, room: str = "lobby") -> None:
    for number in numbers:
        await links.publish(message(number, room=room))


async def publish_together(links: LogicLinks, numbers: range, room: str = "lobby") -> None:
    """Publish from one task each, begun in the order of the numbers."""

    async def one(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await links.publish(message(number, room=room))

    async with trio.open_nursery() as nursery:
        for number in numbers:
            await nursery.start(one, number)


# -- what job workers call


class FakeBroadcaster:
    """Remembers the pushes, and in `together` how many came at a time."""

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.together: list[int] = []
        self.gate = trio.Event()
        self.gate.set()

    async def broadcast(self, *pushes: Push) -> int:
        await self.gate.wait()
        self.pushes += pushes
        self.together.append(len(pushes))
        return 1


async def test_push_is_broadcast_before_it_is_answered() -> None:
    broadcaster = FakeBroadcaster()
    broadcaster.gate = trio.Event()
    service = ConnService(broadcaster)
    push = Push("lobby", Level.IMPORTANT, b"\x01\x00\x00\x00x", (Item("ann", 5, b"id"),))
    async with (
        serving([service], limits=LIMITS) as server,
        open_channel(server.addresses[0], limits=LIMITS) as channel,
    ):
        with trio.move_on_after(0.1) as scope:
            await ConnStub(channel).BroadcastRoom(push.to_request())
        assert scope.cancelled_caught
        broadcaster.gate.set()
        await ConnStub(channel).BroadcastRoom(push.to_request())
    assert push in broadcaster.pushes
    assert service.statistics().pushes == 2


async def run_peer(name: str, server: RpcServer) -> Any:
    """Let a job worker on C-core call `server`, and return what it was answered."""
    command = [sys.executable, str(PEERS / name), server.addresses[0]]
    with trio.fail_after(20):
        done = await trio.run_process(command, capture_stdout=True, env=ENVIRONMENT)
    await until(lambda: server.statistics().in_flight == 0)
    return json.loads(done.stdout)


async def test_go_job_worker_pushes_and_is_refused_in_its_own_words() -> None:
    broadcaster = FakeBroadcaster()
    service = ConnService(broadcaster)
    async with serving([service], limits=LIMITS) as server:
        told = await run_peer("go_job.py", server)
    refused = ["UNKNOWN", NO_ROOM_OR_DATA]
    assert told == [0, 0, refused, refused]
    assert [(push.room, len(push.body)) for push in broadcaster.pushes] == [
        ("lobby", 5),
        ("lobby", 3_000_000),
    ]
    assert (service.statistics().pushes, service.statistics().malformed) == (2, 2)


def deliver_request(*pushes: Push, first: int = 1) -> DeliverRequest:
    request = DeliverRequest()
    for number, push in enumerate(pushes, first):
        request.batches.add(number=number, push=push.encode())
    return request


def said(text: bytes, room: str = "lobby") -> Push:
    return Push(room, Level.NORMAL, pack([text]), (Item("ann", 5, b"id"),))


async def test_pushes_of_a_stream_are_broadcast_in_order_and_each_is_answered() -> None:
    broadcaster = FakeBroadcaster()
    service = ConnService(broadcaster)
    pushes = [said(b"%d" % number, room) for number, room in enumerate(["a", "a", "b", "b", "a", "a"])]
    async with (
        serving([service], limits=LIMITS) as server,
        open_channel(server.addresses[0], limits=LIMITS) as channel,
        ConnStub(channel).Deliver.open() as stream,
    ):
        await stream.send_request()
        assert await stream.recv_message() == DeliverReply(open=True)
        await stream.send_message(deliver_request(*pushes[:2]))
        request = deliver_request(*pushes[2:5], first=3)
        request.batches.add(number=6, push=b"nonsense")
        request.batches.add(number=7, push=BroadcastRoomReq(roomID="lobby").SerializeToString())
        request.batches.add(number=8, push=pushes[5].encode())
        await stream.send_message(request)
        first, second = await stream.recv_message(), await stream.recv_message()
        assert service.statistics().streams == 1
        await stream.end()
        assert await stream.recv_message() is None
    assert first == DeliverReply(taken=[1, 2])
    assert second is not None
    assert second.taken == [3, 4, 5, 8]
    assert [refused.number for refused in second.refused] == [6, 7]
    assert second.refused[1].text == NO_ROOM_OR_DATA
    assert broadcaster.pushes == pushes
    assert broadcaster.together == [2, 2, 2]
    counted = service.statistics()
    assert (counted.streams, counted.requests, counted.pushes, counted.malformed) == (0, 2, 6, 2)


async def test_nothing_is_answered_before_it_is_broadcast() -> None:
    broadcaster = FakeBroadcaster()
    broadcaster.gate = trio.Event()
    async with (
        serving([ConnService(broadcaster)], limits=LIMITS) as server,
        open_channel(server.addresses[0], limits=LIMITS) as channel,
        ConnStub(channel).Deliver.open() as stream,
    ):
        await stream.send_request()
        await stream.recv_message()
        await stream.send_message(deliver_request(said(b"1")))
        with trio.move_on_after(0.1) as waiting:
            await stream.recv_message()
        assert waiting.cancelled_caught
        broadcaster.gate.set()
        assert await stream.recv_message() == DeliverReply(taken=[1])


async def test_stream_ends_at_once_when_the_conn_server_drains() -> None:
    service = ConnService(FakeBroadcaster())
    async with (
        serving([service], limits=LIMITS) as server,
        open_channel(server.addresses[0], limits=LIMITS) as channel,
        ConnStub(channel).Deliver.open() as stream,
    ):
        await stream.send_request()
        await stream.recv_message()
        server.drain(grace_s=30)
        with trio.fail_after(5):
            assert await stream.recv_message() is None
            await until(lambda: service.statistics().streams == 0)


async def test_job_worker_on_c_core_delivers_over_a_stream() -> None:
    broadcaster = FakeBroadcaster()
    service = ConnService(broadcaster)
    async with serving([service], limits=LIMITS) as server:
        told = await run_peer("job.py", server)
    assert told == {"open": True, "taken": 300, "refused": [301], "status": "OK"}
    assert [int(next(unpack(push.body))) for push in broadcaster.pushes] == list(range(1, 301))


# -- links


async def test_sign_in_and_publish_reach_logic_and_the_queue() -> None:
    async with nodes(None) as (node,), linked(FakePeers([node.address])) as links:
        assert (await links.authenticate(token("42"))).user == "42"
        with pytest.raises(Refused) as caught:
            await links.authenticate("nonsense")
        assert (caught.value.code, caught.value.text) == (Code.NOT_SIGNED_IN, BAD_SEGMENTS)
        await publish(links, 1)
        with pytest.raises(Refused) as caught:
            await links.publish(message(2, data=b"x" * 61_441))
        assert caught.value.code is Code.TOO_LARGE
        node.producer.failures.extend([Unavailable("away")] * 4)
        with pytest.raises(Unavailable, match="away"):
            await links.publish(message(3))
        statistics = links.statistics()
    assert node.producer.messages == [message(1)]
    assert (statistics.sign_ins, statistics.publishes) == (2, 3)
    assert statistics.not_done == {"not_signed_in": 1, "too_large": 1, "unavailable": 1}
    assert (statistics.waiting, statistics.waiting_bytes, statistics.unanswered) == (0, 0, 0)


async def test_one_rooms_messages_are_stored_in_the_order_of_the_calls_and_in_batches() -> None:
    async with nodes(None) as (node,), linked(FakePeers([node.address])) as links:
        node.producer.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_together, links, range(1, 501))
            await until(lambda: links.statistics().waiting == 500)
            node.producer.gate.set()
        assert node.numbers == [*range(1, 501)]
        assert links.statistics().frames <= 10


async def test_rooms_are_spread_and_each_takes_one_way() -> None:
    async with nodes(None, None) as both, linked(FakePeers(node.address for node in both)) as links:
        for number in range(1, 65):
            await publish(links, number, number + 1000, room=f"room {number}")
        for number in range(10):
            await links.authenticate(token(str(number)))
        assert all(node.service.statistics().sign_ins == 5 for node in both)
    ways = [{each.room for each in node.producer.messages} for node in both]
    assert all(len(way) > 10 for way in ways)
    assert not ways[0] & ways[1]


async def test_message_under_way_to_a_server_that_dies_is_stored_by_another() -> None:
    async with nodes(None, None) as both, linked(FakePeers(node.address for node in both)) as links:
        for node in both:
            node.producer.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_together, links, range(1, 21))
            await until(lambda: links.statistics().waiting == 20)
            await until(lambda: any(node.service.statistics().unanswered for node in both))
            first, second = both if both[0].service.statistics().unanswered else reversed(both)
            second.producer.gate.set()
            await first.end()
        assert first.producer.stored == []
        assert second.numbers == [*range(1, 21)]
        assert links.statistics().lost == 1
        assert links.statistics().moved == 20


async def test_without_any_server_one_is_told_so_and_served_when_it_is_back() -> None:
    async with nodes(None) as (node,), linked(FakePeers([node.address])) as links:
        await publish(links, 1)
        await node.end()
        with pytest.raises(Unavailable, match="no logic server"):
            await links.authenticate(token())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, links, 2)
            await node.start()
        assert node.numbers == [1, 2]
        assert links.statistics().homeless == 0


async def test_servers_restart_one_after_the_other_and_nobody_is_told() -> None:
    """Draining: nothing new goes there, what is under way is answered, and the order holds."""
    async with nodes(None, None) as both, linked(FakePeers(node.address for node in both)) as links:
        finished = False

        async def talk(room: str, first: int) -> None:
            number = first
            while not finished:
                await links.publish(message(number, room=room))
                await links.authenticate(token())
                number += 1

        async with trio.open_nursery() as nursery:
            for place in range(10):
                nursery.start_soon(talk, f"room {place}", place * 100_000 + 1)
            for node in both:
                before = len(node.producer.stored)
                await until(lambda: len(node.producer.stored) > before + 20)  # noqa: B023
                node.server.drain(grace_s=5)
                await until(lambda: node.service.statistics().links == 0)  # noqa: B023
                await node.end()
                await node.start()
                await until(lambda: links.statistics().open == 2)
            finished = True
        assert links.statistics().lost == 0
        assert links.statistics().not_done == {}
    stored = [each for node in both for each in node.producer.messages]
    assert len({each.origin_seq for each in stored}) == len(stored)
    for place in range(10):
        numbers = sorted(each.origin_seq for each in stored if each.room == f"room {place}")
        assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]


async def test_server_that_discovery_does_not_name_any_more_answers_what_is_under_way() -> None:
    async with nodes(None) as (node,):
        peers = FakePeers([node.address])
        async with linked(peers) as links:
            node.producer.gate = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, links, 1)
                await until(lambda: links.statistics().unanswered == 1)
                peers.set()
                await until(lambda: links.statistics().open == 0)
                with pytest.raises(Unavailable):
                    await links.authenticate(token())
                node.producer.gate.set()
            await until(lambda: node.server.statistics().connections == 0)
            assert node.numbers == [1]
            peers.set(node.address)
            await publish(links, 2)
            assert links.statistics().lost == 0


class SlowOpening(LogicService):
    """Opens its links when the test says so."""

    def __init__(self) -> None:
        super().__init__(fake_logic(FakeProducer()))
        self.gates: list[trio.Event] = []

    async def Link(self, stream: Stream[LinkRequest, LinkReply]) -> None:  # noqa: N802
        gate = trio.Event()
        self.gates.append(gate)
        await gate.wait()
        await super().Link(stream)


async def test_link_that_opens_when_its_server_has_left_and_come_back_does_not_replace_the_new_one() -> None:
    """A logic server was killed and started again while the old link was still trying: the old one opened
    last, took the place of the new one and gave it up, and the server was never asked again."""
    service = SlowOpening()
    async with nodes(service) as (node,), open_logic(peers := FakePeers([node.address]), OPTIONS) as links:
        await until(lambda: len(service.gates) == 1)
        peers.set()
        await wait_all_tasks_blocked()
        peers.set(node.address)
        await until(lambda: len(service.gates) == 2)
        old, new = service.gates
        new.set()
        await until(lambda: links.statistics().open == 1)
        old.set()
        await until(lambda: node.server.statistics().connections == 1)
        assert links.statistics().open == 1
        assert (await links.authenticate(token("42"))).user == "42"


async def test_server_that_leaves_a_publish_unanswered_is_given_up() -> None:
    async with nodes(None, None) as both:
        peers = FakePeers(node.address for node in both)
        async with linked(peers, replace(OPTIONS, stall_s=0.4)) as links:
            for node in both:
                node.producer.gate = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, links, 1)
                await until(lambda: any(node.producer.batches for node in both))
                first, second = both if both[0].producer.batches else reversed(both)
                second.producer.gate.set()
            assert second.numbers == [1]
            assert first.producer.stored == []


async def test_caller_that_gives_up_leaves_nothing_behind() -> None:
    async with nodes(None) as (node,), linked(FakePeers([node.address])) as links:
        node.producer.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_together, links, range(1, 600))
            await until(lambda: links.statistics().waiting == 599)
            nursery.cancel_scope.cancel()
        given_up = links.statistics()
        assert given_up.waiting == given_up.queued + given_up.unanswered == 599
        node.producer.gate.set()
        await publish(links, 1000)
        # What had left is stored; what had not is forgotten.
        assert node.numbers == [*range(1, given_up.unanswered + 1), 1000]
        left = links.statistics()
        assert (left.waiting, left.waiting_bytes, left.queued) == (0, 0, 0)


async def test_leaving_the_context_ends_links_and_connections() -> None:
    async with nodes(None) as (node,):
        async with linked(FakePeers([node.address])) as links:
            await publish(links, 1)
        await until(lambda: node.server.statistics().connections == 0)
        assert node.service.statistics().links == 0


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.02, 0.1])
async def test_links_cancelled_at_any_moment_leave_nothing(after_s: float) -> None:
    async with nodes(None, OddLogic("unimplemented")) as both:
        with trio.move_on_after(after_s):
            async with open_logic(FakePeers(node.address for node in both), OPTIONS) as links:
                async with trio.open_nursery() as nursery:
                    for number in range(1, 50):
                        nursery.start_soon(links.publish, message(number, room=f"room {number}"))
                        nursery.start_soon(links.authenticate, token())
                await trio.sleep_forever()
        await until(lambda: all(node.server.statistics().connections == 0 for node in both))
        assert all(node.service.statistics().unanswered == 0 for node in both)


async def test_links_go_over_mutual_tls(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    ours = client_tls(ca=files.ca, certificate=files.client, key=files.client_key)
    theirs = server_tls(files.server, files.server_key, client_ca=files.ca)
    producer = FakeProducer()
    async with serving([LogicService(fake_logic(producer))], limits=LIMITS, tls=theirs) as server:
        address = server.addresses[0]
        options = replace(OPTIONS, tls=ours, server_name="localhost")
        async with linked(FakePeers([address]), options) as links:
            assert (await links.authenticate(token("42"))).user == "42"
            await publish(links, 1)
        async with open_logic(FakePeers([address]), OPTIONS) as links:
            with pytest.raises(Unavailable):
                await links.authenticate(token("42"))
    assert producer.messages == [message(1)]


async def test_error_of_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with open_logic(FakePeers(), OPTIONS):
            raise ValueError("mine")


# -- peers that are not ours


class OddLogic(LogicBase):
    """A logic server whose Link does as a test wishes.

    Attributes:
        links: how often Link was opened.
        calls: what was asked by unary calls.
    """

    def __init__(self, wish: str) -> None:
        self.wish = wish
        self.links = 0
        self.calls: list[object] = []
        self.gate = trio.Event()
        self.gate.set()

    async def Auth(self, stream: Stream[AuthReq, AuthReply]) -> None:  # noqa: N802
        request = await stream.recv_message()
        assert request is not None
        self.calls.append(request.token)
        await self.gate.wait()
        await stream.send_message(AuthReply(uid=1, nickname="1"))

    async def PushMsg(self, stream: Stream[BroadcastRoomReq, BroadcastRoomReply]) -> None:  # noqa: N802
        request = await stream.recv_message()
        assert request is not None
        self.calls.append((request.roomID, request.origin_seq))
        await self.gate.wait()
        await stream.send_message(BroadcastRoomReply())

    async def Link(self, stream: Stream[LinkRequest, LinkReply]) -> None:  # noqa: N802
        self.links += 1
        if self.wish == "unimplemented":
            raise RpcError(Status.UNIMPLEMENTED)
        if self.wish == "no window":
            await stream.send_message(LinkReply())
        if self.wish == "silent":
            await trio.sleep_forever()
        if self.wish == "ends":
            await stream.send_message(LinkReply(window=LinkReply.Window(items=10, bytes=1000)))


@pytest.mark.parametrize("wish", ["no window", "silent"])
async def test_link_that_does_not_begin_as_it_should_is_tried_again_in_peace(wish: str) -> None:
    odd = OddLogic(wish)
    async with (
        nodes(odd) as (node,),
        open_logic(FakePeers([node.address]), replace(OPTIONS, open_s=0.05)) as links,
    ):
        await until(lambda: odd.links >= 3)
        with pytest.raises(Unavailable):
            await links.authenticate(token())
        assert odd.links < 30
        assert links.statistics().open == 0


async def test_link_that_ends_again_and_again_does_not_keep_its_callers_for_ever() -> None:
    odd = OddLogic("ends")
    async with nodes(odd) as (node,), open_logic(FakePeers([node.address]), OPTIONS) as links:
        with pytest.raises(Unavailable):
            await links.authenticate(token())
        assert links.statistics().lost >= 2


async def test_server_without_link_is_called_one_by_one_with_a_rooms_order_kept() -> None:
    odd = OddLogic("unimplemented")
    async with nodes(odd) as (node,), linked(FakePeers([node.address])) as links:
        odd.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_together, links, range(1, 31))
            nursery.start_soon(links.authenticate, "7")
            await until(lambda: len(odd.calls) == 2)
            odd.gate.set()
        assert [call for call in odd.calls if call != "7"] == [("lobby", number) for number in range(1, 31)]
        assert odd.links == 1
        assert links.statistics().calls == 31
        assert links.statistics().frames == 0


async def test_server_without_link_that_discovery_drops_answers_what_is_under_way() -> None:
    odd = OddLogic("unimplemented")
    async with nodes(odd) as (node,):
        peers = FakePeers([node.address])
        async with linked(peers) as links:
            odd.gate = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, links, 1)
                await until(lambda: links.statistics().unanswered == 1)
                peers.set()
                await until(lambda: links.statistics().open == 0)
                odd.gate.set()
            await until(lambda: node.server.statistics().connections == 0)


async def test_link_is_tried_again_when_a_server_without_it_comes_back() -> None:
    odd = OddLogic("unimplemented")
    async with nodes(odd, None) as (old, new):
        new_address, new.address = new.address, old.address
        assert new_address != old.address
        await new.end()
        async with linked(FakePeers([old.address])) as links:
            await links.authenticate("7")
            assert odd.links == 1
            await old.end()
            await new.start()
            await publish(links, 1)
            assert new.numbers == [1]
            assert links.statistics().frames == 1


@asynccontextmanager
async def go_logic() -> AsyncIterator[tuple[str, trio.Process]]:
    command = [sys.executable, str(PEERS / "go_logic.py"), "0"]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = b""
        with trio.fail_after(20):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        yield f"127.0.0.1:{int(line)}", process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await process.stdout.aclose()
        await process.stdin.aclose()


async def stored_by(process: trio.Process, count: int) -> list[Any]:
    assert process.stdout is not None
    text = b""
    with trio.fail_after(5):
        while text.count(b"\n") < count:
            text += await process.stdout.receive_some()
    return [json.loads(line) for line in text.splitlines()]


async def test_go_logic_server_is_spoken_to_as_the_go_system_does() -> None:
    async with go_logic() as (address, process), linked(FakePeers([address])) as links:
        assert await links.authenticate("42") == Grant(42, "42")
        with pytest.raises(Refused) as caught:
            await links.authenticate("old")
        assert (caught.value.code, caught.value.text) == (Code.NOT_SIGNED_IN, "登录信息过期")
        await links.publish(Message("lobby", Level.IMPORTANT, b"hello", 7, 8, "ann", 9))
        assert await stored_by(process, 1) == [["lobby", 1, "hello", 8, "ann"]]
        with pytest.raises(Refused) as caught:
            await links.publish(Message("lobby", Level.NORMAL, b""))
        assert (caught.value.code, caught.value.text) == (Code.BAD_REQUEST, NO_ROOM_OR_DATA)
        with pytest.raises(Unavailable, match="nsq: not connected"):
            await links.publish(Message("lobby", Level.NORMAL, b"no queue"))
        process.kill()
        with pytest.raises(Unavailable):
            await links.authenticate("42")
        with pytest.raises(Unavailable):
            await links.publish(message())
