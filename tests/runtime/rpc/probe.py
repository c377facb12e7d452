"""A service that does what its caller wishes, and a way to serve it for the length of a test."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from runtime.rpc.channel import Channel, open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.limits import RpcLimits
from runtime.rpc.server import RpcServer, Service, serve_rpc
from tests.runtime.rpc.probe_grpc import ProbeBase
from tests.runtime.rpc.probe_pb2 import Answer, Ask

if TYPE_CHECKING:
    from grpclib.server import Stream

ADDRESS = "127.0.0.1:0"
# Short, so that tests of deadlines are; the machine may be busy, so not too short.
LIMITS = RpcLimits(connect_s=2.0, ready_s=1.0, flush_s=0.3, backoff_s=0.02, backoff_cap_s=0.1)


class Probe(ProbeBase):
    """Answers, waits, fails and streams as `Ask` says; remembers what was cancelled.

    Attributes:
        begun: set each time a handler begins to wait.
        cancelled: ids of asks whose handler was cancelled.
        finished: ids of asks that were answered.
        deadlines_s: what was left of the deadline at each ask, if there was one.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.begun = trio.Event()
        self.cancelled: list[int] = []
        self.finished: list[int] = []
        self.deadlines_s: list[float | None] = []
        self.received = 0

    async def Echo(self, stream: Stream[Ask, Answer]) -> None:  # noqa: N802
        ask = await stream.recv_message()
        assert ask is not None
        self.deadlines_s.append(stream.deadline.time_remaining() if stream.deadline else None)
        await self._fulfil(ask)
        await stream.send_message(Answer(id=ask.id, body=self.name.encode() or ask.body))
        self.finished.append(ask.id)

    async def Down(self, stream: Stream[Ask, Answer]) -> None:  # noqa: N802
        ask = await stream.recv_message()
        assert ask is not None
        try:
            for number in range(ask.count):
                await stream.send_message(Answer(id=number, body=ask.body))
                self.finished.append(number)
            await self._fulfil(ask)
        except trio.Cancelled:
            self.cancelled.append(ask.id)
            raise

    async def Up(self, stream: Stream[Ask, Answer]) -> None:  # noqa: N802
        size = 0
        async for ask in stream:
            await self._fulfil(ask)
            size += len(ask.body)
            self.received += 1
        await stream.send_message(Answer(id=size))

    async def Chat(self, stream: Stream[Ask, Answer]) -> None:  # noqa: N802
        self.begun.set()
        try:
            async for ask in stream:
                await self._fulfil(ask)
                await stream.send_message(Answer(id=ask.id, body=ask.body))
            self.finished.append(-1)
        except trio.Cancelled:
            self.cancelled.append(-1)
            raise

    async def _fulfil(self, ask: Ask) -> None:
        if ask.wish == "refuse":
            raise RpcError(Status.NOT_FOUND, "没有")
        if ask.wish == "refuse in a nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 3600)
                raise RpcError(Status.ABORTED, "from a nursery")
        if ask.wish == "fail":
            raise ValueError("a bug")
        if ask.wish == "say nothing":
            raise RpcError(Status.OK)
        if ask.sleep_s:
            self.begun.set()
            try:
                await trio.sleep(ask.sleep_s)
            except trio.Cancelled:
                self.cancelled.append(ask.id)
                raise


@asynccontextmanager
async def serving(
    services: Iterable[Service],
    *,
    address: str = ADDRESS,
    limits: RpcLimits = LIMITS,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RpcServer]:
    """Serve for the length of the block; the tests' body errors come out plainly."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_rpc, services, address, limits=limits, tls=tls))
        try:
            yield server
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def probing(
    *, limits: RpcLimits = LIMITS, service: Probe | None = None
) -> AsyncIterator[tuple[Probe, RpcServer, Channel]]:
    """Serve a `Probe` and open a channel to it."""
    probe = service or Probe()
    async with (
        serving([probe], limits=limits) as server,
        open_channel(server.addresses[0], limits=limits) as channel,
    ):
        yield probe, server, channel


async def until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    """Wait until `condition` holds; fail if it takes too long."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  what is waited for is in another layer's counters
            await trio.sleep(0.005)
