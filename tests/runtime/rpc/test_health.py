"""grpc.health.v1 on Trio."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.health import Health
from runtime.rpc.server import RpcServer, serve_rpc
from tests.runtime.rpc.probe import ADDRESS, LIMITS, serving

pytestmark = pytest.mark.usefixtures("no_leaks")

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


async def test_check_answers_for_one_service_and_for_all() -> None:
    health = Health(["a.A", "b.B"])
    async with serving([health]) as server, open_channel(server.addresses[0], limits=LIMITS) as channel:

        async def check(service: str) -> int:
            return (await HealthStub(channel).Check(HealthCheckRequest(service=service))).status

        assert [await check(name) for name in ("", "a.A", "b.B")] == [SERVING] * 3
        health.set_serving("b.B", serving=False)
        assert [await check(name) for name in ("", "a.A", "b.B")] == [NOT_SERVING, SERVING, NOT_SERVING]
        with pytest.raises(RpcError) as caught:
            await check("c.C")
        assert caught.value.status is Status.NOT_FOUND
        with pytest.raises(KeyError):
            health.set_serving("c.C", serving=True)


async def test_watch_sends_each_change_once_and_ends_when_the_server_drains() -> None:
    health = Health(["a.A"])
    async with trio.open_nursery() as nursery:
        server: RpcServer = await nursery.start(partial(serve_rpc, [health], ADDRESS, limits=LIMITS))
        async with (
            open_channel(server.addresses[0], limits=LIMITS) as channel,
            HealthStub(channel).Watch.open() as stream,
        ):
            await stream.send_message(HealthCheckRequest(service="a.A"))
            seen = []

            async def see() -> None:
                answer = await stream.recv_message()
                assert answer is not None
                seen.append(answer.status)

            await see()
            for serving_now in (False, False, True):
                health.set_serving("a.A", serving=serving_now)
                if serving_now != (seen[-1] == SERVING):
                    await see()
            server.drain(grace_s=30)
            with trio.fail_after(10):
                await see()
                assert await stream.recv_message() is None
            assert seen == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]


async def test_watch_of_an_unknown_service_says_so_and_stays() -> None:
    async with (
        serving([Health([])]) as server,
        open_channel(server.addresses[0], limits=LIMITS) as channel,
        HealthStub(channel).Watch.open() as stream,
    ):
        await stream.send_message(HealthCheckRequest(service="nobody"))
        answer = await stream.recv_message()
        assert answer is not None
        assert answer.status == HealthCheckResponse.SERVICE_UNKNOWN
        with trio.move_on_after(0.05) as scope:
            await stream.recv_message()
        assert scope.cancelled_caught
