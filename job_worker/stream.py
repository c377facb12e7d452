"""What is under way to one conn server over one `Deliver` stream.

    push --> unsent --> one request of all that has gathered --> unanswered --> answered

A unary call costs both ends a request's and a reply's worth of HTTP/2 headers and bookkeeping; here that
is shared by all batches of the stream, and a frame by those that came while the last one was being sent.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import trio

from runtime.rpc.errors import RpcError
from schema.access import Code, Refused, Unavailable
from schema.message import Push
from schema.proto.conn_pb2 import DeliverReply, DeliverRequest

MAX_REQUEST_BYTES: Final = 256 * 1024
"""Of pushes in one request; one that is larger itself leaves alone."""


class DeliverCall(Protocol):
    """A `Deliver` call that has been opened: a `runtime.rpc.calls.Call`, as far as it is used here."""

    async def send_message(self, message: DeliverRequest) -> None:
        """Send; raises RpcError when the call has failed."""

    async def recv_message(self) -> DeliverReply | None:
        """Return the next reply, None after the last; raises RpcError when the call has failed."""


class _Batch:
    """One push on its way, and who waits for it.

    Attributes:
        number: on the stream; 0: it has not left.
        problem: why it was not taken, once `answered` is set.
    """

    __slots__ = ("answered", "body", "number", "problem")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.number = 0
        self.answered = trio.Event()
        self.problem: Refused | Unavailable | None = None

    def answer(self, problem: Refused | Unavailable | None) -> None:
        self.problem = problem
        self.answered.set()


class DeliverStream:
    """One stream, opened already.  Owned by the task that runs it; bounded by how many push at a time."""

    def __init__(self, call: DeliverCall) -> None:
        self._call = call
        self._unsent: deque[_Batch] = deque()
        self._unanswered: dict[int, _Batch] = {}
        self._number = 0
        self._work = trio.Event()  # replaced when set
        self._scope = trio.CancelScope()

    async def push(self, push: Push) -> None:
        """Return once the conn server has taken `push`; the caller's deadline is the only one.

        Cancelled before it has left, it never does.  Cancelled later, the stream is given up: what is tried
        again would follow a first copy that is still on its way, and everybody would hear it twice.

        Raises:
            Unavailable: the stream has ended.
            Refused: it does not take this push.
        """
        batch = _Batch(push.encode())
        self._unsent.append(batch)
        self._work.set()
        try:
            await batch.answered.wait()
        except trio.Cancelled:
            if batch.number:
                self._scope.cancel()
            else:
                self._unsent.remove(batch)
            raise
        if batch.problem is not None:
            raise batch.problem

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
            for batch in (*self._unanswered.values(), *self._unsent):
                batch.answer(Unavailable(problem))

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
            batch = self._unsent[0]
            if size_bytes and size_bytes + len(batch.body) > MAX_REQUEST_BYTES:
                break
            self._unsent.popleft()
            self._number += 1
            batch.number = self._number
            self._unanswered[batch.number] = batch
            request.batches.add(number=batch.number, push=batch.body)
            size_bytes += len(batch.body)
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

    def _answered(self, number: int, problem: Refused | None) -> None:
        batch = self._unanswered.pop(number, None)
        if batch is not None:
            batch.answer(problem)
