"""One client: its work in order, its deadlines, and that nothing of it is left however it ends."""

from __future__ import annotations

import gc
import socket
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from wsproto.events import CloseConnection

from conn_server.client import Client
from conn_server.connection import CLOSED, Connection
from conn_server.session import Rules, Session
from schema.access import INVALID, Code, Grant, Refused, Unavailable
from schema.closing import CloseCode
from schema.envelope import HEARTBEAT, NOT_SIGNED_IN, PONG, encode_ack, encode_push
from schema.message import Level, Message, Push
from schema.proto import conn_pb2 as pb
from tests.conn_server.driven import open_door
from tests.conn_server.raw import frame
from tests.conn_server.serving import BOOT_ID, NOW, SUC, Peer, PlayedLogic, message, serving, sign_in

pytestmark = pytest.mark.usefixtures("no_leaks")

MEMBERS = b"\x08\x04"


def push(text: bytes = b"x", room: str = "lobby") -> Push:
    return Push(room, Level.NORMAL, len(text).to_bytes(4, "little") + text)


def err(answer: bytes) -> tuple[int, str]:
    found = pb.Err.FromString(pb.Reply.FromString(answer).data)
    return found.code, found.msg


# -- work


async def test_published_message_is_stamped_and_acknowledged() -> None:
    async with serving() as served:
        peer = await served.join("lobby")
        await peer.say(message("lobby", b"hello", 9))
        assert await peer.hear() == encode_ack(Code.OK, "suc", 9)
        stamped = Message("lobby", Level.NORMAL, b"hello", BOOT_ID, 1, "7", int(NOW * 1000))
        assert served.logic.published == [stamped]


async def test_refused_sign_in_may_be_tried_again() -> None:
    async with serving() as served:
        peer = await served.connect()
        await peer.say(HEARTBEAT)
        assert await peer.hear() == NOT_SIGNED_IN
        await peer.say(sign_in("lobby", "bad"))
        assert err(await peer.hear())[0] == 100
        await peer.say(sign_in("lobby"))
        assert await peer.hear() == SUC


async def test_requests_are_done_in_order_and_one_at_a_time() -> None:
    async with serving() as served:
        peer = await served.join("lobby")
        served.logic.gate = trio.Event()
        for number in range(1, 4):
            await peer.say(message("lobby", b"%d" % number, number))
        await peer.say(HEARTBEAT)
        await served.until(lambda: served.logic.under_way)
        await wait_all_tasks_blocked()
        assert served.logic.under_way == 1
        served.logic.gate.set()
        answers = [await peer.hear() for _ in range(4)]
        assert answers == [*(encode_ack(Code.OK, "suc", n) for n in range(1, 4)), PONG]
        assert [m.data for m in served.logic.published] == [b"1", b"2", b"3"]


async def test_publish_that_failed_says_so() -> None:
    async with serving() as served:
        peer = await served.join("lobby")
        for error, code in (
            (Refused(Code.TOO_LARGE, "too large"), Code.TOO_LARGE),
            (Unavailable("no queue"), Code.UNAVAILABLE),
        ):
            served.logic.refuse = error
            await peer.say(message("lobby", b"x", 5))
            assert await peer.hear() == encode_ack(code, error.text, 5)


async def test_logic_that_does_not_answer_is_unavailable() -> None:
    async with serving(request_timeout_s=0.02) as served:
        peer = await served.join("lobby")
        served.logic.gate = trio.Event()
        await peer.say(message("lobby", b"x", 5))
        assert err(await peer.hear())[0] == Code.UNAVAILABLE
        await peer.say(sign_in("lobby", version=1))
        assert err(await peer.hear())[0] == Code.UNAVAILABLE
        served.logic.gate = None
        await peer.say(HEARTBEAT)
        assert await peer.hear() == PONG


async def test_defect_in_the_work_ends_this_client_alone() -> None:
    """Its exception went up to the nursery of all clients, and took them and the port along."""
    async with serving() as served:
        peer, other = await served.join("lobby"), await served.join("lobby")
        served.logic.refuse = RuntimeError("a defect")
        await peer.say(message("lobby", b"x"))
        assert (await peer.closed()).code == CloseCode.INTERNAL_ERROR
        await other.say(HEARTBEAT)
        assert await other.hear() == PONG


# -- rooms


async def test_second_sign_in_switches_rooms_in_one_step() -> None:
    async with serving() as served:
        peer = await served.join("old")
        await peer.say(sign_in("new"))
        assert await peer.hear() == SUC
        assert await served.port.broadcaster.broadcast(push(room="old")) == 0
        assert await served.port.broadcaster.broadcast(push(room="new")) == 1
        assert await peer.hear() == encode_push(push(room="new"), 0)
        assert served.node.rooms.statistics().memberships == 1


async def test_refused_switch_leaves_the_client_where_it_is() -> None:
    async with serving(max_rooms=1) as served:
        peer = await served.join("old")
        await peer.say(sign_in("new"))
        assert err(await peer.hear())[0] == 100
        served.logic.grant = Grant(7, "7", rooms=("else*",))
        await peer.say(sign_in("forbidden"))
        assert err(await peer.hear())[0] == Code.FORBIDDEN
        assert await served.port.broadcaster.broadcast(push(room="old")) == 1
        assert await peer.hear() == encode_push(push(room="old"), 0)


async def test_members_are_counted_when_asked() -> None:
    async with serving() as served:
        peer = await served.join("lobby")
        await served.join("lobby")
        await peer.say(MEMBERS)
        assert await peer.hear() == pb.Reply(type=4, data=b"2").SerializeToString()  # type: ignore[arg-type]


async def test_no_push_comes_before_the_answer_to_the_sign_in() -> None:
    async with serving() as served, trio.open_nursery() as nursery:
        await served.join("lobby")

        async def pushing() -> None:
            while True:
                await served.port.broadcaster.broadcast(push())
                await trio.lowlevel.checkpoint()

        nursery.start_soon(pushing)
        for _ in range(20):
            peer = await served.connect()
            await peer.say(sign_in("lobby"))
            assert await peer.hear() == SUC
            assert await peer.hear() == encode_push(push(), 0)
            await peer.aclose()
        nursery.cancel_scope.cancel()


# -- deadlines, with times made up


async def test_client_that_does_not_sign_in_is_closed_with_4001() -> None:
    async with serving() as served:
        peer = await served.connect()
        served.sweep(4.9)
        await peer.say(HEARTBEAT)
        assert await peer.hear() == NOT_SIGNED_IN
        served.sweep(5.1)
        assert (await peer.closed()).code == CloseCode.SIGN_IN_TIMEOUT


@pytest.mark.parametrize("is_signed_in", [False, True])
async def test_deadline_that_is_shorter_than_that_of_the_head_is_kept(is_signed_in: bool) -> None:
    """A client was looked at first when its opening would have been: up to the head timeout too late."""
    rules = Rules(sign_in_timeout_s=5.0 if is_signed_in else 0.1, heartbeat_timeout_s=(0.1, 0.1))
    async with serving(rules=rules, sweep_interval_s=0.05) as served:
        peer = await (served.join("lobby") if is_signed_in else served.connect())
        with trio.fail_after(2):
            assert (await peer.closed()).code == (4002 if is_signed_in else 4001)


async def test_client_says_when_to_look_at_it_again() -> None:
    async with serving() as served:
        peer = await served.connect()
        (client,) = served.clients
        now = trio.current_time()
        assert client.swept(now) == client.session.deadline
        await peer.say(sign_in("lobby", version=1))
        await peer.hear()
        assert client.connection is not None
        assert client.swept(now) == client.connection.last_seen + 60.0


async def test_sign_in_that_takes_too_long_is_cancelled() -> None:
    async with serving() as served:
        served.logic.gate = trio.Event()
        peer = await served.connect()
        await peer.say(sign_in("lobby"))
        await served.until(lambda: served.logic.under_way)
        served.sweep(5.1)
        assert (await peer.closed()).code == CloseCode.SIGN_IN_TIMEOUT
        await served.until(lambda: not served.logic.under_way)
        assert not served.node.rooms.statistics().rooms


def check(token: str) -> Grant:
    if token == "bad":
        raise Refused(Code.NOT_SIGNED_IN, INVALID)
    return Grant(7, "7")


async def test_where_tokens_are_checked_here_nobody_is_asked() -> None:
    async with serving(check=check) as served:
        peer = await served.connect()
        await peer.say(sign_in("lobby", "bad"))
        assert err(await peer.hear())[0] == 100
        for room in ("lobby", "garden"):
            await peer.say(sign_in(room))
            assert await peer.hear() == SUC
        assert served.node.rooms.statistics().memberships == 1
        assert served.logic.calls == 0


async def test_no_push_of_the_new_room_comes_before_the_answer_to_the_sign_in() -> None:
    async with serving(check=check) as served, trio.open_nursery() as others:

        async def talk() -> None:
            while True:
                await served.port.broadcaster.broadcast(push(room="garden"))
                await trio.lowlevel.checkpoint()

        peer = await served.connect()
        await peer.say(sign_in("lobby"))
        assert await peer.hear() == SUC
        others.start_soon(talk)
        for _ in range(10):  # which of two tasks goes first is Trio's dice
            await peer.say(sign_in("garden"))
            assert await peer.hear() == SUC
            assert await peer.hear() == encode_push(push(room="garden"), 0)
            await peer.say(sign_in("lobby"))
            while await peer.hear() != SUC:
                pass
        others.cancel_scope.cancel()


@pytest.mark.parametrize("token", ["good", "bad"])
async def test_client_that_signs_in_again_and_again_gets_one_turn_for_each(token: str) -> None:
    turns = 0
    seen: list[int] = []

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    def note(said: str) -> Grant:
        seen.append(turns)
        return check(said)

    async with serving(check=note) as served, trio.open_nursery() as others:
        peer = await served.connect()
        others.start_soon(take_turns)
        await peer.stream.send_all(b"".join([frame(sign_in("lobby", token))] * 20))
        for _ in range(20):
            await peer.hear()
        others.cancel_scope.cancel()
    # The first is free, and of two tasks that take turns one may go twice before the other does.
    assert len(seen) == 20
    assert all(earlier < later for earlier, later in zip(seen[1:], seen[3:], strict=False))


async def test_sign_in_that_succeeds_as_the_connection_closes_joins_no_room() -> None:
    class ClosingLogic(PlayedLogic):
        """Says yes at the moment at which the connection begins to close."""

        async def authenticate(self, token: str) -> Grant:
            await trio.lowlevel.checkpoint()
            served.sweep(5.1)
            return self.grant

    async with serving(logic=ClosingLogic()) as served:
        peer = await served.connect()
        await peer.say(sign_in("lobby"))
        assert (await peer.closed()).code == CloseCode.SIGN_IN_TIMEOUT
        assert not served.node.rooms.statistics().rooms


@pytest.mark.parametrize(("version", "timeout_s"), [(0, 600.0), (1, 60.0)])
async def test_client_that_sends_no_frame_is_closed_with_4002(version: int, timeout_s: float) -> None:
    async with serving() as served:
        peer = await served.join("lobby", version=version)
        await peer.say(HEARTBEAT)
        assert await peer.hear() == PONG
        served.sweep(timeout_s - 1)
        await peer.say(HEARTBEAT)
        assert await peer.hear() == PONG
        served.sweep(timeout_s + 1)
        assert (await peer.closed()).code == CloseCode.HEARTBEAT_TIMEOUT
        assert not served.node.rooms.statistics().rooms


async def test_client_whose_token_ends_is_closed_with_4004() -> None:
    logic = PlayedLogic(grant=Grant(7, "7", expires_at_s=int(NOW) + 100))
    async with serving(logic=logic) as served:
        peer = await served.join("lobby")
        served.sweep(99)
        served.sweep(101)
        assert (await peer.closed()).code == CloseCode.TOKEN_EXPIRED


async def test_waiting_for_logic_is_not_the_clients_silence() -> None:
    async with serving(rules=Rules(heartbeat_timeout_s=(1.0, 1.0))) as served:
        peer = await served.join("lobby")
        served.logic.gate = trio.Event()
        await peer.say(message("lobby", b"x", 3))
        await served.until(lambda: served.logic.under_way)
        served.sweep(4.0)
        served.logic.gate.set()
        assert await peer.hear() == encode_ack(Code.OK, "suc", 3)


# -- the end


async def reset(peer: Peer) -> None:
    assert isinstance(peer.stream, trio.SocketStream)
    peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await peer.aclose()


@pytest.mark.parametrize("is_working", [True, False])
@pytest.mark.parametrize("how", ["close", "end", "reset", "cancel"])
async def test_nothing_of_a_client_is_left_however_it_ends(how: str, is_working: bool) -> None:
    async with serving() as served:
        peer = await served.join("lobby")
        tasks = trio.lowlevel.current_statistics().tasks_living
        (client,) = served.clients
        if is_working:
            served.logic.gate = trio.Event()
            await peer.say(message("lobby", b"x"))
            await served.until(lambda: served.logic.under_way)
        if how == "close":
            await peer.stream.send_all(peer.protocol.send(CloseConnection(1000)))
        elif how == "end":
            assert isinstance(peer.stream, trio.SocketStream)
            await peer.stream.send_eof()
        elif how == "reset":
            await reset(peer)
        else:
            client.cancel()
        if served.logic.gate is not None:  # what was read of a client is not thrown away
            if how in ("reset", "cancel"):
                await served.until(lambda: not served.node.rooms.statistics().rooms)
            await wait_all_tasks_blocked()
            assert served.logic.under_way == 1
            served.logic.gate.set()
            await served.until(lambda: served.logic.published)
        await peer.aclose()
        await served.until(lambda: served.is_empty)
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks - 1
        assert served.wire.statistics().closed == {{"close": 1000, "cancel": 1001}.get(how, 1006): 1}


@pytest.mark.parametrize("is_working", [True, False])
async def test_task_that_is_cancelled_closes_the_socket_and_leaves_the_room(is_working: bool) -> None:
    async with serving() as served:
        with open_door() as door:
            sock = door.arrive()
            client = Client(served.node, served.node.admission.enter("here"), door.poller.now)
            connection = client.connection = Connection(sock, door.wire, client)
            door.poller.add(sock.fileno(), connection)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
                connection.feed(frame(sign_in("lobby")))
                await served.until(lambda: served.node.rooms.statistics().memberships)
                if is_working:
                    served.logic.gate = trio.Event()
                    connection.feed(frame(message("lobby", b"x")))
                    await served.until(lambda: served.logic.under_way)
                nursery.cancel_scope.cancel()
            assert connection.state == CLOSED
            assert served.is_empty


async def test_cancelling_one_client_touches_no_other() -> None:
    async with serving() as served:
        one, other = await served.join("lobby"), await served.join("lobby")
        client = served.clients[0]
        client.cancel()
        client.cancel()
        await wait_all_tasks_blocked()
        (left,) = served.clients
        left.swept(trio.current_time())
        statistics = served.node.rooms.statistics()
        assert statistics.memberships == 1
        alive = 0
        for peer in (one, other):
            try:
                await peer.say(HEARTBEAT)
                alive += await peer.hear() == PONG
            except (trio.BrokenResourceError, AssertionError):
                continue
        assert alive == 1


def held() -> int:
    """Count what belongs to one client, wherever it is."""
    return sum(isinstance(found, Client | Connection | Session) for found in gc.get_objects())


async def test_client_that_has_gone_is_freed_without_the_collector() -> None:
    async with serving() as served:
        peer, other = await served.join("lobby"), await served.join("lobby")
        await peer.say(message("lobby", b"x"))
        await served.until(lambda: served.logic.published)
        gc.collect()
        before = held()
        gc.disable()
        try:
            await peer.aclose()
            await served.until(lambda: len(served.clients) == 1)
            await other.say(HEARTBEAT)  # the poller's loop holds on to the last handler that was ready
            assert await other.hear() == PONG
            assert before - held() == 3
        finally:
            gc.enable()
