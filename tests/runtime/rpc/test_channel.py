"""A channel's connection: lazy, kept, lost, found again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, RequestReceived
from h2.exceptions import ProtocolError

from runtime.rpc.channel import Backoff, open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.limits import RpcLimits
from runtime.rpc.server import RpcServer, open_listeners, serve_rpc
from tests.runtime.rpc.probe import ADDRESS, LIMITS, Probe, probing, serving, until
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Ask

pytestmark = pytest.mark.usefixtures("no_leaks")

Talk = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[str]:
    """Accept connections with `talk`, a server of the test's own; yield its address."""

    async def serve(stream: trio.SocketStream) -> None:
        # Gone, or still talking on a connection that the test has ended.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
            await talk(stream)

    listeners = await open_listeners(ADDRESS)
    port = listeners[0].socket.getsockname()[1]
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        try:
            yield f"127.0.0.1:{port}"
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def http2_server(stream: trio.SocketStream, act: Callable[[H2Connection, Event], None]) -> None:
    """Speak HTTP/2 as far as h2 does by itself, and `act` on each event."""
    connection = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
    connection.initiate_connection()
    await stream.send_all(connection.data_to_send())
    while data := await stream.receive_some():
        for event in connection.receive_data(data):
            act(connection, event)
        await stream.send_all(connection.data_to_send())


async def failing_status(address: str, limits: RpcLimits, timeout: float | None = None) -> Status:
    async with open_channel(address, limits=limits) as channel:
        with pytest.raises(RpcError) as caught:
            await ProbeStub(channel).Echo(Ask(), timeout=timeout)
        return caught.value.status


async def test_nothing_is_connected_before_the_first_call() -> None:
    async with probing() as (_, server, channel):
        await trio.testing.wait_all_tasks_blocked()
        assert server.statistics().connected == 0
        assert not channel.ready
        await ProbeStub(channel).Echo(Ask())
        assert server.statistics().connected == 1
        assert channel.ready


async def test_nobody_there_is_unavailable_after_a_bounded_wait() -> None:
    listeners = await open_listeners(ADDRESS)
    address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    await listeners[0].aclose()
    limits = replace(LIMITS, ready_s=0.3)
    began = trio.current_time()
    assert await failing_status(address, limits) is Status.UNAVAILABLE
    assert limits.ready_s * 0.9 < trio.current_time() - began < limits.ready_s + 5


@pytest.mark.parametrize("address", ["nonsense", "a..b:1", ":1", "127.0.0.1:0"])
async def test_what_is_no_address_is_refused_before_anything_is_dialled(address: str) -> None:
    with pytest.raises(ValueError, match="an address"):
        await failing_status(address, LIMITS)


async def test_call_deadline_counts_while_connecting() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with listening(silent) as address:
        status = await failing_status(address, RpcLimits(ready_s=30, connect_s=30), timeout=0.1)
        assert status is Status.DEADLINE_EXCEEDED


async def test_peer_that_accepts_and_is_silent_is_unavailable() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with listening(silent) as address:
        assert await failing_status(address, RpcLimits(ready_s=0.3, connect_s=0.1)) is Status.UNAVAILABLE


async def test_channel_comes_back_after_the_server_was_away() -> None:
    async with trio.open_nursery() as nursery:
        server: RpcServer = await nursery.start(partial(serve_rpc, [Probe()], ADDRESS, limits=LIMITS))
        address = server.addresses[0]
        async with open_channel(address, limits=LIMITS) as channel:
            stub = ProbeStub(channel)
            assert (await stub.Echo(Ask(id=1))).id == 1
            server.drain(grace_s=0)
            await until(lambda: channel.statistics().failures.get("connect", 0) > 0)
            server = await nursery.start(partial(serve_rpc, [Probe()], address, limits=LIMITS))
            with trio.fail_after(10):
                assert (await stub.Echo(Ask(id=2))).id == 2
            assert channel.statistics().reconnects == 1
            assert channel.statistics().failures["connect"] >= 1
            server.drain(grace_s=0)


def lose(server: RpcServer) -> None:
    for link in list(server._links):
        link.abort("lost")


async def test_channel_that_carries_one_long_call_comes_back_at_once() -> None:
    """Once only calls that had ended counted: after a few losses the channel of a stream stayed slow."""
    limits = replace(LIMITS, backoff_s=60, backoff_cap_s=60)
    async with probing(limits=limits) as (_, server, channel):
        for _ in range(3):
            async with ProbeStub(channel).Chat.open() as stream:
                await stream.send_message(Ask(id=1))
                assert await stream.recv_message() is not None
                lose(server)
                with pytest.raises(RpcError):
                    await stream.recv_message()
            await until(lambda: channel.ready)


async def test_channel_whose_connection_has_lasted_comes_back_at_once() -> None:
    limits = replace(LIMITS, backoff_s=60, backoff_cap_s=0.05)
    async with probing(limits=limits) as (_, server, channel):
        async with ProbeStub(channel).Chat.open() as stream:
            await stream.send_request()  # nothing is answered
        await trio.sleep(2 * limits.backoff_cap_s)
        lose(server)
        await until(lambda: channel.statistics().connected == 2)  # it is away for too short to be seen so


async def test_channel_whose_connections_do_not_last_waits_longer_and_longer() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        await stream.send_all(connection.data_to_send())

    limits = replace(LIMITS, backoff_s=0.5, backoff_cap_s=60)
    async with listening(hang_up) as address, open_channel(address, limits=limits) as channel:
        with trio.move_on_after(0.7), pytest.raises(RpcError):
            await ProbeStub(channel).Echo(Ask(id=1))
        assert channel.statistics().connected <= 3  # at 0, from 0.25, from 0.75 s


async def test_call_under_way_survives_a_goaway_beside_a_new_connection() -> None:
    """A server behind one address that is replaced: the old one drains while the new one takes calls."""
    old, new = Probe("old"), Probe("new")
    async with trio.open_nursery() as nursery:
        server: RpcServer = await nursery.start(partial(serve_rpc, [old], ADDRESS, limits=LIMITS))
        address = server.addresses[0]
        async with open_channel(address, limits=LIMITS) as channel, ProbeStub(channel).Chat.open() as stream:
            await stream.send_message(Ask(id=1))
            await stream.recv_message()
            server.drain(grace_s=10)
            await until(lambda: not channel.ready)
            successor: RpcServer = await nursery.start(partial(serve_rpc, [new], address, limits=LIMITS))
            assert (await ProbeStub(channel).Echo(Ask(id=3))).body == b"new"
            await stream.send_message(Ask(id=2))
            answer = await stream.recv_message()
            assert answer is not None
            assert answer.id == 2
            await stream.end()
            assert await stream.recv_message() is None
            successor.drain(grace_s=0)
    assert old.finished == [-1]


async def test_silent_peer_is_noticed_by_keepalive_while_a_call_waits() -> None:
    """The peer's TCP still answers, its process does not: only the missing pong tells."""
    hung = trio.Event()

    async def hang(stream: trio.SocketStream) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        await stream.send_all(connection.data_to_send())
        hung.set()
        await trio.sleep_forever()

    limits = RpcLimits(keepalive_s=0.1, keepalive_timeout_s=0.2, ready_s=0.2)
    async with listening(hang) as address, open_channel(address, limits=limits) as channel:
        with trio.fail_after(10), pytest.raises(RpcError) as caught:
            await ProbeStub(channel).Echo(Ask(), timeout=30)
        assert caught.value.status is Status.UNAVAILABLE
        assert "keepalive" in caught.value.text
        assert channel.statistics().failures["keepalive timeout"] == 1


async def test_quiet_connection_stays_as_long_as_pings_are_answered() -> None:
    limits = RpcLimits(keepalive_s=0.05, keepalive_timeout_s=2.0)
    async with probing(limits=limits) as (_, server, channel), ProbeStub(channel).Chat.open() as stream:
        await stream.send_message(Ask(id=1))
        await stream.recv_message()
        before = server.statistics().received_bytes
        await trio.sleep(0.4)
        assert server.statistics().received_bytes > before
        await stream.send_message(Ask(id=2))
        assert await stream.recv_message() is not None
        assert channel.statistics().reconnects == 0


async def test_server_closes_a_client_that_has_died() -> None:
    limits = RpcLimits(keepalive_s=0.1, keepalive_timeout_s=0.2)
    async with serving([Probe()], limits=limits) as server:
        host, port = server.addresses[0].split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            connection = H2Connection(H2Configuration(client_side=True))
            connection.initiate_connection()
            await stream.send_all(connection.data_to_send())
            await until(lambda: server.statistics().failures.get("keepalive timeout") == 1)
            await until(lambda: server.statistics().connections == 0)


async def test_calls_that_goaway_left_out_are_unavailable_at_once() -> None:
    def act(connection: H2Connection, event: Event) -> None:
        if isinstance(event, RequestReceived):
            connection.close_connection(last_stream_id=0)

    async with listening(partial(http2_server, act=act)) as address:
        with trio.fail_after(10):
            assert await failing_status(address, LIMITS, timeout=30) is Status.UNAVAILABLE


async def test_storm_of_goaways_ends_in_bounded_attempts() -> None:
    """A server that greets and leaves at once is tried with growing pauses, not in a tight loop."""

    async def greet_and_leave(stream: trio.SocketStream) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        connection.close_connection()
        await stream.send_all(connection.data_to_send() * 2)

    limits = RpcLimits(ready_s=0.5, backoff_s=0.05, backoff_cap_s=0.2)
    async with listening(greet_and_leave) as address, open_channel(address, limits=limits) as channel:
        with pytest.raises(RpcError) as caught:
            await ProbeStub(channel).Echo(Ask(), timeout=5)
        assert caught.value.status is Status.UNAVAILABLE
        assert channel.statistics().connected < 12


async def test_too_many_pings_makes_the_client_ping_less() -> None:
    def act(connection: H2Connection, event: Event) -> None:
        if isinstance(event, RequestReceived):
            connection.close_connection(
                ErrorCodes.ENHANCE_YOUR_CALM, additional_data=b"too_many_pings", last_stream_id=0
            )

    async with (
        listening(partial(http2_server, act=act)) as address,
        open_channel(address, limits=LIMITS) as channel,
    ):
        with pytest.raises(RpcError):
            await ProbeStub(channel).Echo(Ask(), timeout=5)
        await until(lambda: channel._keepalive_s == 2 * LIMITS.keepalive_s)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCodes.REFUSED_STREAM, Status.UNAVAILABLE),
        (ErrorCodes.CANCEL, Status.CANCELLED),
        (ErrorCodes.ENHANCE_YOUR_CALM, Status.RESOURCE_EXHAUSTED),
        (ErrorCodes.INTERNAL_ERROR, Status.INTERNAL),
    ],
)
async def test_reset_by_the_server_says_what_it_means(code: ErrorCodes, status: Status) -> None:
    def act(connection: H2Connection, event: Event) -> None:
        if isinstance(event, RequestReceived):
            connection.reset_stream(event.stream_id, code)

    async with listening(partial(http2_server, act=act)) as address:
        assert await failing_status(address, LIMITS, timeout=5) is status


async def test_leaving_the_channel_ends_calls_of_other_tasks() -> None:
    async with serving([Probe()]) as server, trio.open_nursery() as nursery:
        statuses = []

        async def call(stub: ProbeStub) -> None:
            with pytest.raises(RpcError) as caught:
                await stub.Echo(Ask(sleep_s=30), timeout=20)
            statuses.append(caught.value.status)

        async with open_channel(server.addresses[0], limits=LIMITS) as channel:
            nursery.start_soon(call, ProbeStub(channel))
            await until(lambda: server.statistics().in_flight == 1)
        await until(lambda: statuses == [Status.UNAVAILABLE])
        with pytest.raises(RpcError):
            await ProbeStub(channel).Echo(Ask())


async def test_error_in_the_channels_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with open_channel("127.0.0.1:1"):
            raise KeyError("the caller's own")


def test_backoff_doubles_to_its_cap_with_jitter() -> None:
    backoff = Backoff(0.1, 1.0, random.Random(1))
    drawn = [backoff.draw_s() for _ in range(8)]
    for pause, most in zip(drawn, [0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1], strict=True):
        assert most / 2 <= pause <= most
    backoff.reset()
    assert backoff.draw_s() <= 0.1
