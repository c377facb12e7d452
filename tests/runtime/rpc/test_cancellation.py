"""Cancelled at any moment, nothing is left: no task, no descriptor, no call in the books."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from runtime.rpc.channel import open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.server import RpcServer, serve_rpc
from tests.runtime.rpc.probe import ADDRESS, LIMITS, Probe, serving, until
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Ask

pytestmark = pytest.mark.usefixtures("no_leaks")


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when the tasks below it have made so many steps."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._left = steps
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def cancelled_at(steps: int, run: Callable[[], Awaitable[None]]) -> bool:
    """Run it, cancelled after so many scheduler steps of the whole process; say whether that was in time."""
    with trio.fail_after(5), trio.CancelScope() as scope:
        instrument = CancelAtStep(steps, scope)
        trio.lowlevel.add_instrument(instrument)
        try:
            await run()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


async def use(address: str) -> None:
    async with open_channel(address, limits=LIMITS) as channel:
        stub = ProbeStub(channel)
        await stub.Echo(Ask(id=1, body=b"x" * 200_000))
        async with stub.Chat.open(timeout=10) as stream:
            for number in range(5):
                await stream.send_message(Ask(id=number))
                await stream.recv_message()
            await stream.end()
            await stream.recv_message()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(stub.Echo, Ask(id=number, sleep_s=0.001))


async def test_client_can_be_cancelled_at_every_step() -> None:
    async with serving([Probe()]) as server:
        steps = 0
        while await cancelled_at(steps := steps + 1 + steps // 40, partial(use, server.addresses[0])):
            pass
        assert steps > 100
        await until(lambda: server.statistics().in_flight == 0)
        await until(lambda: server.statistics().connections == 0)
        assert "internal error" not in server.statistics().failures


async def test_server_can_be_cancelled_at_every_step() -> None:
    """The client beside it sees answers or UNAVAILABLE, whatever the moment."""
    outcomes = set()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            server: RpcServer = await nursery.start(partial(serve_rpc, [Probe()], ADDRESS, limits=LIMITS))
            with trio.CancelScope(shield=True), trio.move_on_after(0.02):
                async with open_channel(server.addresses[0], limits=LIMITS) as channel:
                    for number in range(3):
                        try:
                            await ProbeStub(channel).Echo(Ask(id=number, body=b"x" * 50_000), timeout=10)
                            outcomes.add(Status.OK)
                        except RpcError as error:
                            outcomes.add(error.status)
            nursery.cancel_scope.cancel()

    for steps in range(1, 200, 4):
        await cancelled_at(steps, serve)
    assert outcomes <= {Status.OK, Status.UNAVAILABLE}
