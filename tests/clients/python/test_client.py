from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
import trio
import trio.testing
import trustme
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request as UpgradeRequest

from clients.python import (
    Client,
    Closed,
    ConnectFailed,
    Deadlines,
    Disconnected,
    NoAnswer,
    Options,
    PublishRefused,
    SignInRefused,
    open_client,
)
from schema.access import Code
from schema.closing import CloseCode, draining_reason
from schema.envelope import PackageType, Request, SignedIn, decode_request, encode_signed_in
from schema.message import Level, Message
from schema.proto import conn_pb2 as pb
from tests.clients.fake_server import NOW_MS, FakeServer, Member, open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")

IMPATIENT = Options(deadlines=Deadlines(connect_s=1.0, answer_s=0.5, write_s=0.1, close_s=0.2))


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with open_fake_server() as server:
        with trio.fail_after(10):
            yield server


def join(
    server: FakeServer,
    user: str = "ann",
    room: str = "lobby",
    version: int = 1,
    options: Options | None = None,
) -> AbstractAsyncContextManager[Client]:
    return open_client(server.room_url, token=f"token-of-{user}", room=room, version=version, options=options)


def said(text: str, level: Level = Level.NORMAL) -> Message:
    return Message("lobby", level, text.encode(), 0, 0, "bot", NOW_MS)


async def test_sign_in_tells_what_the_server_says(server: FakeServer) -> None:
    async with join(server) as client:
        assert server.sign_ins == [("token-of-ann", "lobby", 1)]
        assert client.room == "lobby"
        assert client.signed_in is not None
        assert (client.signed_in.members, client.signed_in.heartbeat_timeout_s) == (1, 60)
        assert client.closed is None
    assert client.closed == Closed(1000, "")


async def test_message_arrives_with_sender_time_and_identity(server: FakeServer) -> None:
    async with join(server) as ann, join(server, "bob") as bob:
        await ann.publish(b"hello")
        await ann.publish(b"fire", Level.IMPORTANT)
        for client in (ann, bob):
            first, second = await client.receive(), await client.receive()
            assert (first.room, first.level, first.data, first.sender) == (
                "lobby",
                Level.NORMAL,
                b"hello",
                "ann",
            )
            assert (first.sent_at_ms, first.batch, first.index) == (NOW_MS, 1, 0)
            assert (second.level, second.data, second.batch) == (Level.IMPORTANT, b"fire", 2)
            assert len(first.id) == 16
            assert first.id != second.id


async def test_records_of_a_merged_push_come_one_by_one(server: FakeServer) -> None:
    async with join(server) as client:
        await server.push("lobby", [said("a"), said("x" * 300), said("c")])
        received = [await client.receive() for _ in range(3)]
    assert [(message.batch, message.index) for message in received] == [(1, 0), (1, 1), (1, 2)]
    assert [len(message.data) for message in received] == [1, 300, 1]


@pytest.mark.parametrize("version", [0, 1])
async def test_refused_sign_in_leaves_no_client(server: FakeServer, version: int) -> None:
    with pytest.raises(SignInRefused) as refused:
        async with open_client(server.room_url, token="worn out", room="lobby", version=version):
            pytest.fail("it was refused")
    assert refused.value.code == 100
    assert refused.value.text == "rpc error: code = Unknown desc = 登录信息过期"


async def test_refused_publish_says_why_and_the_client_lives(server: FakeServer) -> None:
    async with join(server) as client:
        server.refuse["lobby"] = (Code.TOO_FAST, "slow down")
        with pytest.raises(PublishRefused) as refused:
            await client.publish(b"hello")
        assert (refused.value.code, refused.value.text) == (429, "slow down")
        assert await client.members() == 1


async def test_publish_without_ack_returns_once_it_is_written(server: FakeServer) -> None:
    server.silent.add(PackageType.MESSAGE)
    async with join(server) as client:
        await client.publish(b"hello", ack=False)
    (frame,) = await server.wait_for_frames(PackageType.MESSAGE)
    assert frame.id == 0


async def test_client_of_version_0_sends_no_ids_and_takes_replies_in_order(server: FakeServer) -> None:
    async with join(server, version=0) as client, join(server, "bob"):
        await client.publish(b"hello")
        counted: list[object] = []
        async with trio.open_nursery() as nursery:
            for ask in (client.members, client.heartbeat, client.members):
                nursery.start_soon(_collect, ask, counted)
        assert sorted(str(count) for count in counted if isinstance(count, int)) == ["2", "2"]
        message = await client.receive()
        assert (message.data, message.sender, message.id) == (b"hello", "", b"")
        assert client.signed_in is None
    assert {frame.id for frame in server.frames if frame.type != PackageType.SIGN_IN} <= {0}


async def test_late_answer_to_a_version_0_client_is_not_taken_for_the_next_one(server: FakeServer) -> None:
    async with join(server, version=0) as client:
        server.silent.add(PackageType.MEMBERS)
        with trio.move_on_after(0.05):
            await client.members()
        server.silent.clear()
        (frame,) = await server.wait_for_frames(PackageType.MEMBERS)
        await server.answer_request(server.members[0], frame)
        assert await client.heartbeat() >= 0
        assert await client.members() == 1
        assert client.statistics().unexpected == 1


async def test_switch_joins_another_room_and_a_refused_switch_stays(server: FakeServer) -> None:
    server.refuse["vault"] = (Code.FORBIDDEN, "not for you")
    async with join(server) as client:
        await client.switch("cellar")
        assert client.room == "cellar"
        with pytest.raises(SignInRefused, match="403 not for you"):
            await client.switch("vault")
        assert client.room == "cellar"
        await client.publish(b"anybody?")
        assert (await client.receive()).room == "cellar"
        await client.switch("cellar", token="token-of-dan")
    assert server.sign_ins[-1] == ("token-of-dan", "cellar", 1)


async def test_messages_end_with_the_connection_after_all_was_read(server: FakeServer) -> None:
    async with join(server) as client:
        await server.push("lobby", [said("one"), said("two")])
        await server.close_all(CloseCode.GOING_AWAY, draining_reason(700))
        assert await client.wait_closed() == (1001, '{"retry_after_ms":700}')
        assert [message.data async for message in client.messages()] == [b"one", b"two"]
        with pytest.raises(Disconnected, match="1001"):
            await client.publish(b"too late")


async def serve_and_close_late(stream: trio.SocketStream) -> None:
    """Sign a client in, and answer its close frame when all others have gone to sleep."""
    protocol = WSConnection(ConnectionType.SERVER)
    async for data in stream:
        protocol.receive_data(bytes(data))
        for event in protocol.events():
            if isinstance(event, UpgradeRequest):
                await stream.send_all(protocol.send(AcceptConnection()))
            elif isinstance(event, BytesMessage):
                answer = encode_signed_in(SignedIn(1, 60, NOW_MS), decode_request(bytes(event.data)).id)
                await stream.send_all(protocol.send(BytesMessage(answer)))
            elif isinstance(event, CloseConnection):
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_all(protocol.send(event.response()))


async def test_leaving_ends_with_the_close_frame_of_the_server(nursery: trio.Nursery) -> None:
    """Whoever was waiting for messages ended, and took along the reader that the close frame needed."""
    serve = partial(trio.serve_tcp, serve_and_close_late, 0, host="127.0.0.1")
    (listener,) = await nursery.start(serve)
    url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/room"
    with trio.fail_after(10):
        patient = Options(deadlines=Deadlines(close_s=60))
        async with open_client(url, token="token", room="lobby", options=patient):
            pass
    nursery.cancel_scope.cancel()


async def test_listener_is_woken_by_the_end_of_the_connection(server: FakeServer) -> None:
    heard: list[bytes] = []

    async def listen(client: Client) -> None:
        heard.extend([message.data async for message in client.messages()])
        heard.append(b"end")

    async with join(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(listen, client)
        await trio.testing.wait_all_tasks_blocked()
        await server.close_all(CloseCode.KICKED)
    assert heard == [b"end"]


async def test_waiting_publish_fails_when_the_connection_ends(server: FakeServer) -> None:
    server.silent.add(PackageType.MESSAGE)

    async def publish(client: Client) -> None:
        with pytest.raises(Disconnected, match="4003"):
            await client.publish(b"hello")

    async with join(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(publish, client)
        await server.wait_for_frames(PackageType.MESSAGE)
        await server.close_all(CloseCode.REFUSED)


async def test_publish_after_the_connection_began_to_end_is_told_so_at_once(server: FakeServer) -> None:
    """It was taken by the writer, which could not send it, and waited for its deadline."""
    outcomes: list[Closed] = []

    async def publish_when_it_ends(client: Client) -> None:
        await client.wait_closed()
        with pytest.raises(Disconnected) as disconnected:
            await client.publish(b"late")
        outcomes.append(disconnected.value.closed)

    options = Options(max_buffered_messages=1)
    async with join(server, options=options) as client, trio.open_nursery() as nursery:
        nursery.start_soon(publish_when_it_ends, client)
        await server.push("lobby", [said("1", Level.IMPORTANT), said("2", Level.IMPORTANT)])
    async with trio.open_nursery() as nursery, join(server) as client:
        nursery.start_soon(publish_when_it_ends, client)
        await trio.testing.wait_all_tasks_blocked()
    assert [closed.code for closed in outcomes] == [CloseCode.SLOW_CONSUMER, CloseCode.NORMAL]


async def test_publish_whose_turn_comes_when_the_connection_has_ended_is_told_so(server: FakeServer) -> None:
    server.silent.add(PackageType.MESSAGE)
    outcomes: list[str] = []

    async def publish(client: Client) -> None:
        try:
            await client.publish(b"hello")
        except Disconnected as error:
            outcomes.append(type(error).__name__)

    async with trio.open_nursery() as nursery, join(server) as client:
        for _ in range(5):
            nursery.start_soon(publish, client)
        await trio.lowlevel.checkpoint()
    assert outcomes == ["Disconnected"] * 5


@pytest.mark.parametrize("version", [0, 1])
async def test_unanswered_request_ends_at_its_deadline(server: FakeServer, version: int) -> None:
    server.silent.add(PackageType.MEMBERS)
    async with join(server, version=version, options=IMPATIENT) as client:
        with pytest.raises(NoAnswer, match="MEMBERS"):
            await client.members()
        assert await client.heartbeat() < 0.5 if version else True


async def test_unanswered_sign_in_ends_at_its_deadline(server: FakeServer) -> None:
    server.silent.add(PackageType.SIGN_IN)
    with pytest.raises(NoAnswer, match="SIGN_IN"):
        async with join(server, options=IMPATIENT):
            pytest.fail("nobody answered")


async def test_heartbeats_go_by_themselves_and_a_missing_answer_ends_the_connection(
    server: FakeServer,
) -> None:
    options = Options(heartbeat_interval_s=0.01, deadlines=IMPATIENT.deadlines)
    async with join(server, options=options) as client:
        await server.wait_for_frames(PackageType.HEARTBEAT, 3)
        server.silent.add(PackageType.HEARTBEAT)
        assert (await client.wait_closed()).code == CloseCode.HEARTBEAT_TIMEOUT


@pytest.mark.parametrize("data", [pb.Err(code=503, msg="later").SerializeToString(), b"\xff"])
async def test_heartbeat_that_is_not_answered_as_one_ends_the_connection_and_not_the_application(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """It was raised into the block of the application, which had not asked for anything."""
    answer_request = server.answer_request

    async def answer_oddly(member: Member, request: Request) -> None:
        if request.type == PackageType.HEARTBEAT:
            await member.websocket.send_message(pb.Reply(data=data, id=request.id).SerializeToString())
        else:
            await answer_request(member, request)

    monkeypatch.setattr(server, "answer_request", answer_oddly)
    async with join(server, options=Options(heartbeat_interval_s=0.01)) as client:
        closed = await client.wait_closed()
        assert closed.code == CloseCode.ABNORMAL
        assert "heartbeat" in closed.reason


async def test_application_that_does_not_read_loses_the_oldest_normal_messages(server: FakeServer) -> None:
    async with join(server, options=Options(max_buffered_messages=3)) as client:
        await server.push("lobby", [said(str(number)) for number in range(10)])
        await server.push("lobby", [said("fire", Level.IMPORTANT)])
        await client.heartbeat()  # its answer is behind the pushes
        assert client.statistics().dropped == 8
        assert [(await client.receive()).data for _ in range(3)] == [b"8", b"9", b"fire"]


async def test_important_message_that_does_not_fit_ends_the_connection_and_says_so(
    server: FakeServer,
) -> None:
    async with join(server, options=Options(max_buffered_messages=2)) as client:
        for number in range(3):
            await server.push("lobby", [said(str(number), Level.IMPORTANT)])
        assert await client.wait_closed() == (4008, "the application does not read")
        assert [message.data async for message in client.messages()] == [b"0", b"1"]


async def test_frames_that_make_no_sense_are_counted_and_skipped(server: FakeServer) -> None:
    async with join(server) as client:
        for frame in (b"\xff\xff\xff", "text", b"\x08\x03", b"\x08\x03\x12\x02\x0a\x09", b"\x08\x04\x50\x63"):
            await server.send_to_all(frame)
        await client.publish(b"still here")
        assert (await client.receive()).data == b"still here"
        statistics = client.statistics()
    assert (statistics.malformed, statistics.unexpected) == (4, 1)


async def test_client_speaks_tls_and_checks_the_certificate() -> None:
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with open_fake_server(ssl_context=theirs) as server:
        async with open_client(server.room_url, token="token-of-ann", room="r", ssl_context=ours) as client:
            await client.publish(b"hello")
            assert (await client.receive()).data == b"hello"
        with pytest.raises(ConnectFailed, match="CERTIFICATE"):
            async with open_client(server.room_url, token="token-of-ann", room="r"):
                pytest.fail("nobody vouches for that server")


async def test_no_server_is_one_plain_error() -> None:
    with pytest.raises(ConnectFailed, match="ws://127"):
        async with open_client("ws://127.0.0.1:9/room", token="t", room="r"):
            pytest.fail("there is nobody")


async def test_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ConnectFailed, match="not a ws://"):
        async with open_client("http://127.0.0.1:9/room", token="t", room="r"):
            pytest.fail("that is no WebSocket")


async def test_rejected_upgrade_is_one_plain_error(server: FakeServer) -> None:
    with pytest.raises(ConnectFailed):
        async with open_client(f"{server.room_url[:-4]}other", token="t", room="r", options=IMPATIENT):
            pytest.fail("there is no such path")


async def test_server_that_does_not_answer_the_upgrade_is_given_up() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConnectFailed, match="no answer to the upgrade"):
            async with open_client(f"ws://127.0.0.1:{port}/room", token="t", room="r", options=IMPATIENT):
                pytest.fail("nobody answered")


class DeafServer(FakeServer):
    """Reads until the first message, and never again."""

    async def push(self, room: str, records: Iterable[Message]) -> None:
        await trio.sleep_forever()


async def test_connection_that_ends_during_the_upgrade_is_noticed_at_once() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConnectFailed, match="ended during the upgrade"), trio.fail_after(5):
            async with open_client(f"ws://127.0.0.1:{port}/room", token="t", room="r"):
                pytest.fail("it has hung up")
        nursery.cancel_scope.cancel()


async def test_server_that_stops_reading_fails_the_write_in_time() -> None:
    # Patient with answers, so that only the one deadline can be over.
    options = Options(deadlines=Deadlines(write_s=0.1))
    async with open_fake_server(DeafServer()) as server, join(server, options=options) as client:
        with pytest.raises(Disconnected):
            await publish_forever(client)
        assert client.closed == (1006, "nothing was written for 0.1 s")


async def publish_forever(client: Client) -> None:
    with trio.fail_after(5):
        while True:
            await client.publish(bytes(60_000), ack=False)


async def test_error_of_the_application_leaves_as_it_is(server: FakeServer) -> None:
    with pytest.raises(ZeroDivisionError):
        async with join(server):
            raise ZeroDivisionError
    with pytest.raises(ExceptionGroup, match="mine"):
        async with join(server):
            raise ExceptionGroup("mine", [ZeroDivisionError()])


@pytest.mark.parametrize("version", [0, 1])
async def test_cancelling_at_any_moment_leaves_nothing(server: FakeServer, version: int) -> None:
    async def live() -> None:
        async with join(server, version=version) as client:
            for number in range(3):
                await client.publish(b"%d" % number)
                await client.receive()
            await client.members()
            await client.switch("cellar")

    finished = False
    for number in range(400):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, scope, number)
                await live()
                finished = True
                nursery.cancel_scope.cancel()
        if finished:
            break
    assert finished
    await server.wait_for_members(0)


async def test_cancelled_publish_halves_no_frame(server: FakeServer) -> None:
    async with join(server) as client:
        for _ in range(50):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.publish, bytes(50_000))
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        assert await client.members() == 1


async def _cancel_after(scope: trio.CancelScope, ticks: int) -> None:
    for _ in range(ticks):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def _collect(ask: Callable[[], Awaitable[object]], into: list[object]) -> None:
    into.append(await ask())
