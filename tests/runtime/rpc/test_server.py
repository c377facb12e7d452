"""Stopping: drained or cancelled, with calls of every kind in flight."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from runtime.rpc.channel import Channel, open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.handling import stopping_of
from runtime.rpc.limits import RpcLimits
from runtime.rpc.server import RpcServer, open_listeners, serve_rpc
from tests.runtime.rpc.probe import ADDRESS, LIMITS, Probe, probing, serving, until
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Answer, Ask

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_drain_lets_calls_in_flight_end_and_returns() -> None:
    probe = Probe()
    async with trio.open_nursery() as nursery:
        server: RpcServer = await nursery.start(partial(serve_rpc, [probe], ADDRESS, limits=LIMITS))
        async with open_channel(server.addresses[0], limits=LIMITS) as channel:
            answers = []

            async def call() -> None:
                answers.append((await ProbeStub(channel).Echo(Ask(id=1, sleep_s=0.2))).id)

            nursery.start_soon(call)
            await probe.begun.wait()
            server.drain(grace_s=5)
            with pytest.raises(RpcError) as caught:
                await ProbeStub(channel).Echo(Ask(id=2))
            assert caught.value.status is Status.UNAVAILABLE
            await until(lambda: answers == [1])
    assert probe.finished == [1]


async def test_drain_ends_with_unavailable_what_does_not_end_by_itself() -> None:
    probe = Probe()
    async with trio.open_nursery() as nursery:
        server: RpcServer = await nursery.start(partial(serve_rpc, [probe], ADDRESS, limits=LIMITS))
        async with open_channel(server.addresses[0], limits=LIMITS) as channel:
            errors = []

            async def call() -> None:
                with pytest.raises(RpcError) as caught:
                    await ProbeStub(channel).Echo(Ask(id=1, sleep_s=30), timeout=20)
                errors.append(caught.value)

            async def chat() -> None:
                async with ProbeStub(channel).Chat.open() as stream:
                    await stream.send_message(Ask(id=1))
                    await stream.recv_message()
                    with pytest.raises(RpcError) as caught:
                        await stream.recv_message()
                errors.append(caught.value)

            async with trio.open_nursery() as calls:
                calls.start_soon(call)
                calls.start_soon(chat)
                await until(lambda: server.statistics().in_flight == 2 and probe.begun.is_set())
                began = trio.current_time()
                server.drain(grace_s=0.2)
            assert 0.15 < trio.current_time() - began < 5
            assert [error.status for error in errors] == [Status.UNAVAILABLE] * 2
            assert sorted(probe.cancelled) == [-1, 1]


async def test_long_call_that_heeds_stopping_ends_well_within_the_grace() -> None:
    class Polite(Probe):
        async def Chat(self, stream):  # type: ignore[no-untyped-def]  # noqa: N802
            await stream.recv_message()
            await stream.send_message(Answer(id=1))
            self.begun.set()
            await stopping_of(stream).wait()
            await stream.send_message(Answer(id=2))

    probe = Polite()
    async with trio.open_nursery() as nursery:
        server: RpcServer = await nursery.start(partial(serve_rpc, [probe], ADDRESS, limits=LIMITS))
        async with (
            open_channel(server.addresses[0], limits=LIMITS) as channel,
            ProbeStub(channel).Chat.open() as stream,
        ):
            await stream.send_message(Ask())
            await probe.begun.wait()
            server.drain(grace_s=30)
            with trio.fail_after(10):
                assert [answer.id async for answer in stream] == [1, 2]


async def test_drain_without_calls_is_quick_and_a_second_one_changes_nothing() -> None:
    async with probing() as (_, server, channel):
        await ProbeStub(channel).Echo(Ask())
        server.drain(grace_s=60)
        server.drain(grace_s=0)
        await until(lambda: server.statistics().connections == 0, within_s=10)


async def test_cancelled_server_tells_calls_in_flight_and_leaves_nothing() -> None:
    async with trio.open_nursery() as nursery:
        probe, scope = Probe(), trio.CancelScope()

        async def serve(task_status: trio.TaskStatus[RpcServer]) -> None:
            with scope:
                await serve_rpc([probe], ADDRESS, limits=LIMITS, task_status=task_status)

        server: RpcServer = await nursery.start(serve)
        async with open_channel(server.addresses[0], limits=LIMITS) as channel:
            outcomes: list[Status] = []

            async def call() -> None:
                with pytest.raises(RpcError) as caught:
                    await ProbeStub(channel).Echo(Ask(id=1, sleep_s=30), timeout=20)
                outcomes.append(caught.value.status)

            async with trio.open_nursery() as calls:
                for _ in range(10):
                    calls.start_soon(call)
                await until(lambda: server.statistics().in_flight == 10)
                await probe.begun.wait()
                began = trio.current_time()
                scope.cancel()
            assert trio.current_time() - began < 5
            assert outcomes == [Status.UNAVAILABLE] * 10
            assert server.statistics().in_flight == 0


async def test_call_that_races_a_stop_is_answered_or_unavailable_and_never_anything_else() -> None:
    limits = RpcLimits(ready_s=0.05, flush_s=0.3)
    outcomes = set()
    for round_number in range(8):
        async with trio.open_nursery() as nursery:
            server: RpcServer = await nursery.start(partial(serve_rpc, [Probe()], ADDRESS, limits=limits))
            async with open_channel(server.addresses[0], limits=limits) as channel:

                async def call(number: int, channel: Channel) -> None:
                    await trio.sleep(number * 0.0005)
                    try:
                        await ProbeStub(channel).Echo(Ask(id=number, sleep_s=0.002), timeout=5)
                        outcomes.add(Status.OK)
                    except RpcError as error:
                        outcomes.add(error.status)

                async with trio.open_nursery() as calls:
                    for number in range(40):
                        calls.start_soon(call, number, channel)
                    await trio.sleep(0.01)
                    server.drain(grace_s=0.005 * (round_number % 2))
    assert outcomes <= {Status.OK, Status.UNAVAILABLE}


async def test_several_listeners_are_served_and_closed() -> None:
    listeners = await open_listeners("127.0.0.1:0") + await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        server: RpcServer = await nursery.start(partial(serve_rpc, [Probe()], listeners, limits=LIMITS))
        assert len(set(server.addresses)) == 2
        for address in server.addresses:
            async with open_channel(address, limits=LIMITS) as channel:
                assert (await ProbeStub(channel).Echo(Ask(id=4))).id == 4
        server.drain(grace_s=1)
    assert all(listener.socket.fileno() == -1 for listener in listeners)


async def test_address_that_is_taken_is_an_error_at_the_start() -> None:
    async with serving([Probe()]) as server:
        with pytest.raises(OSError, match="in use"):
            await serve_rpc([Probe()], server.addresses[0])
