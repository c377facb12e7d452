"""The way to one conn server: one `Deliver` stream, or unary `BroadcastRoom` for a Go conn server."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio
from structlog.typing import FilteringBoundLogger

from job_worker.stream import DeliverStream
from runtime.rpc.channel import Backoff, Channel
from runtime.rpc.errors import RpcError, Status, unavailable
from runtime.rpc.limits import RpcLimits
from schema.access import Code, Refused, Unavailable
from schema.message import Push
from schema.proto.conn_grpc import ConnStub
from schema.proto.conn_pb2 import DeliverReply, DeliverRequest

if TYPE_CHECKING:
    from grpclib.client import Stream

Way = Callable[[Sequence[Push]], Awaitable[Sequence[Refused | None]]]
FINAL: Final = frozenset(
    {
        Status.UNKNOWN,  # the handler failed, or refused in the Go system's manner
        Status.INVALID_ARGUMENT,
        Status.FAILED_PRECONDITION,
        Status.OUT_OF_RANGE,
        Status.RESOURCE_EXHAUSTED,  # over its receive limit
    }
)
"""Statuses that the same batch would get again.  All others are worth another try."""


class RemoteConn:
    """A `job_worker.delivery.ConnServer` at the other end of a channel.

    Args:
        channel: the caller's, who closes it; it connects again by itself.
        timeout_s: of a call, of which the conn server is told, of the opening of a stream, and of how long a
            push waits for either to be possible.
        log: told which way is taken, and why a stream has ended.
        limits: how long to wait before a stream is opened again.
    """

    def __init__(
        self,
        channel: Channel,
        timeout_s: float,
        log: FilteringBoundLogger,
        limits: RpcLimits = RpcLimits(),  # noqa: B008  frozen
    ) -> None:
        self._channel = channel
        self._stub = ConnStub(channel)
        self._timeout_s = timeout_s
        self._log = log
        self._backoff = Backoff(limits.backoff_s, limits.backoff_cap_s, random.Random())  # noqa: S311
        self._way: Way | None = None
        self._problem = "not connected yet"
        self._way_found = trio.lowlevel.ParkingLot()

    async def run(self, *, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Keep the way open until cancelled, or until it has ended and is not wanted any more."""
        while True:
            try:
                self._problem = await self._serve()
            except RpcError as error:
                self._problem = str(error)
            self._log.debug("no way to the conn server", address=self._channel.address, problem=self._problem)
            if not is_wanted():
                return
            await trio.sleep(self._backoff.draw_s())

    async def broadcast(self, pushes: Sequence[Push]) -> Sequence[Refused | None]:
        """Return what the conn server says to `pushes`.  Cancelled, it may or may not have taken them.

        Returns:
            None for what it has taken, of the first ones; a Go conn server is asked one at a time.

        Raises:
            Unavailable: not reached, or no answer in time.
        """
        way = self._way or await self._wait_way()
        return await way(pushes)

    async def _wait_way(self) -> Way:
        with trio.move_on_after(self._timeout_s):
            while self._way is None:
                await self._way_found.park()
        if self._way is None:
            raise Unavailable(self._problem)
        return self._way

    async def _serve(self) -> str:
        """Open a stream and keep it; return why it has ended.

        Raises:
            RpcError: it could not be opened.
        """
        async with self._stub.Deliver.open() as call:
            if await self._open(call):
                stream = DeliverStream(call)
                problem = await self._offer(stream.push, stream.run)
                self._log.info("stream ended", address=self._channel.address, problem=problem)
                return problem
        self._log.info("no Deliver there, calling for each batch", address=self._channel.address)
        return await self._offer(self._call, self._wait_lost)

    async def _open(self, call: Stream[DeliverRequest, DeliverReply]) -> bool:
        """Open the stream; return whether the peer has such a thing."""
        with trio.move_on_after(self._timeout_s):
            try:
                await call.send_request()
                first = await call.recv_message()
            except RpcError as error:
                if error.status is Status.UNIMPLEMENTED:
                    return False
                raise
            if first is not None and first.open:
                return True
            raise RpcError(Status.INTERNAL, "a stream that begins without its opening")
        raise unavailable("no answer to the opening of a stream")

    async def _offer(self, way: Way, keep: Callable[[], Awaitable[str]]) -> str:
        """Let pushes take `way` as long as `keep` takes; return what that returns."""
        self._backoff.reset()
        self._way = way
        self._way_found.unpark_all()
        try:
            return await keep()
        finally:
            self._way = None

    async def _wait_lost(self) -> str:
        while self._channel.ready:
            await self._channel.wait_changed()
        return self._channel.problem

    async def _call(self, pushes: Sequence[Push]) -> Sequence[Refused | None]:
        try:
            await self._stub.BroadcastRoom(pushes[0].to_request(), timeout=self._timeout_s)
        except RpcError as exc:
            if exc.status in FINAL:
                return [Refused(Code.BAD_REQUEST, str(exc))]
            raise Unavailable(str(exc)) from exc
        return [None]
