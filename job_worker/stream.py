"""What is under way to one conn server over one `Deliver` stream.

    push --> unsent --> one request of all that has gathered --> unanswered --> answered

A unary call costs both ends a request's and a reply's worth of HTTP/2 headers and bookkeeping; here that
is shared by all batches of the stream, and a frame by those that came while the last one was being sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Final, Protocol

import trio

from runtime.rpc.errors import RpcError
from schema.access import Code, Refused, Unavailable
from schema.message import Push
from schema.proto.conn_pb2 import DeliverReply, DeliverRequest

MAX_REQUEST_BYTES: Final = 256 * 1024
"""Of pushes in one request; a burst that is larger itself leaves alone."""


class DeliverCall(Protocol):
    """A `Deliver` call that has been opened: a `runtime.rpc.calls.Call`, as far as it is used here."""

    async def send_message(self, message: DeliverRequest) -> None:
        """Send; raises RpcError when the call has failed."""

    async def recv_message(self) -> DeliverReply | None:
        """Return the next reply, None after the last; raises RpcError when the call has failed."""


class _Burst:
    """Pushes of one room on their way, and who waits for them.

    Attributes:
        bodies: encoded pushes.
        size_bytes: of them.
        numbers: on the stream; empty: they have not left.
        refusals: of those that were answered, by number.
        problem: why they were not all answered, once `over` is set.
    """

    __slots__ = ("bodies", "numbers", "over", "problem", "refusals", "size_bytes")

    def __init__(self, pushes: Sequence[Push]) -> None:
        self.bodies = [push.encode() for push in pushes]
        self.size_bytes = sum(map(len, self.bodies))
        self.numbers = range(0)
        self.refusals: dict[int, Refused | None] = {}
        self.over = trio.Event()
        self.problem = ""

    def answer(self, number: int, refusal: Refused | None) -> None:
        self.refusals[number] = refusal
        if len(self.refusals) == len(self.numbers):
            self.over.set()

    def fail(self, problem: str) -> None:
        self.problem = problem
        self.over.set()

    def outcomes(self) -> list[Refused | None]:
        """Return what was answered of the first ones."""
        return [self.refusals[number] for number in takewhile(self.refusals.__contains__, self.numbers)]


class DeliverStream:
    """One stream, opened already.  Owned by the task that runs it; bounded by how many push at a time."""

    def __init__(self, call: DeliverCall) -> None:
        self._call = call
        self._unsent: deque[_Burst] = deque()
        self._unanswered: dict[int, _Burst] = {}  # by the numbers of its pushes
        self._number = 0
        self._work = trio.Event()  # replaced when set
        self._scope = trio.CancelScope()

    async def push(self, pushes: Sequence[Push]) -> list[Refused | None]:
        """Return what the conn server says to `pushes`, which leave together; the deadline is the caller's.

        Cancelled before they have left, they never do.  Cancelled later, the stream is given up: what is
        tried again would follow a first copy that is still on its way, and everybody would hear it twice.

        Returns:
            None for each that it has taken; of the first ones if the stream has ended meanwhile.

        Raises:
            Unavailable: the stream has ended before any was answered.
        """
        burst = _Burst(pushes)
        self._unsent.append(burst)
        self._work.set()
        try:
            await burst.over.wait()
        except trio.Cancelled:
            if burst.numbers:
                self._scope.cancel()
            else:
                self._unsent.remove(burst)
            raise
        outcomes = burst.outcomes()
        if not outcomes:
            raise Unavailable(burst.problem)
        return outcomes

    async def run(self) -> str:
        """Send and receive until the stream ends; return why it has.  What is unanswered is `Unavailable`."""
        problem = "no answer in time"
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send)
                    problem = await self._receive()
                    nursery.cancel_scope.cancel()
            return problem
        finally:
            for burst in (*self._unanswered.values(), *self._unsent):
                burst.fail(problem)

    async def _send(self) -> None:
        try:
            while True:
                while self._unsent:
                    await self._call.send_message(self._take())
                await self._work.wait()
                self._work = trio.Event()
        except RpcError:
            return  # whoever receives is told the same, and says so

    def _take(self) -> DeliverRequest:
        """Return what has gathered."""
        request, size_bytes = DeliverRequest(), 0
        while self._unsent:
            burst = self._unsent[0]
            if size_bytes and size_bytes + burst.size_bytes > MAX_REQUEST_BYTES:
                break
            self._unsent.popleft()
            burst.numbers = range(self._number + 1, self._number + 1 + len(burst.bodies))
            self._number += len(burst.bodies)
            for number, body in zip(burst.numbers, burst.bodies, strict=True):
                self._unanswered[number] = burst
                request.batches.add(number=number, push=body)
            size_bytes += burst.size_bytes
        return request

    async def _receive(self) -> str:
        """Settle what is answered until the stream ends; return why it has."""
        try:
            while (reply := await self._call.recv_message()) is not None:
                for number in reply.taken:
                    self._answered(number, None)
                for refused in reply.refused:
                    self._answered(refused.number, Refused(Code.BAD_REQUEST, refused.text))
        except RpcError as error:
            return str(error)
        return "the conn server has ended the stream"

    def _answered(self, number: int, refusal: Refused | None) -> None:
        burst = self._unanswered.pop(number, None)
        if burst is not None:
            burst.answer(number, refusal)
