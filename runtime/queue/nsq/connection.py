"""One connection to one nsqd, after its handshake: what goes out, what comes in, and when it is dead.

    write_nowait / request_nowait --> out-buffer --> _write --> socket
    on_message / on_answer        <-- _take      <-- _read  <-- socket
                                      _watch: silent, unanswered or unread for too long

1. Commands leave in call order, each whole: there is one writer, and what is written within one turn
   of the scheduler leaves in one send.
2. nsqd answers requests in order, and stops at the first that it refuses: what follows is `NotDone`.
3. The end has one reason, the first.  From then on nothing is written and every request is answered.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from runtime.queue.nsq import codec
from runtime.queue.nsq.codec import Frame, Message, Reply
from runtime.queue.nsq.errors import CommandRefused, ConnectionLost, NotDone, NsqError, ProtocolError
from runtime.queue.nsq.handshake import Opened
from runtime.queue.nsq.options import NsqOptions

_RECEIVE_BYTES: Final = 64 * 1024
# What has one deadline: how much of a longer `send_all` nsqd has read, nobody could say.
_SLICE_BYTES: Final = 256 * 1024
# nsqd refuses, then hangs up: the error frame that says why may still be on its way in.
_LAST_WORDS_S: Final = 0.5

OnAnswer: TypeAlias = Callable[[bytes | NsqError], None]
OnMessage: TypeAlias = "Callable[[Connection, Message], None]"


class Tally:
    """What all connections of one producer or consumer have gone through; plain counters.

    Attributes:
        connected: how often a handshake was done.
        failures: how often an attempt failed or a connection ended, by reason.
        too_late: how many FIN, REQ and TOUCH nsqd has refused, by error code.
    """

    __slots__ = ("connected", "failures", "too_late")

    def __init__(self) -> None:
        self.connected = 0
        self.failures: Counter[str] = Counter()
        self.too_late: Counter[str] = Counter()


class Connection:
    """One connection.  It lives as long as `run`, which owns its tasks and its socket; a reconnect
    makes a new one.

    Attributes:
        address: of the nsqd.
        negotiated: what nsqd has agreed to.
        lost: why it ended; None while it lives.
    """

    def __init__(
        self, address: str, opened: Opened, options: NsqOptions, tally: Tally, on_message: OnMessage
    ) -> None:
        """Take over `opened`; `on_message` is called for each message and must not raise."""
        self.address = address
        self.negotiated = opened.negotiated
        self.lost: NsqError | None = None
        self._stream = opened.stream
        self._codec = opened.codec
        self._options = options
        self._tally = tally
        self._on_message = on_message
        self._scope = trio.CancelScope()
        self._out: list[bytes] = []
        self._unsent_bytes = 0
        self._output = trio.Event()
        self._emptied = trio.Event()
        self._requests: deque[tuple[float, OnAnswer]] = deque()  # when asked, whom to tell
        self._heard_at = trio.current_time()
        self._sending_since: float | None = None

    @property
    def unanswered(self) -> int:
        """How many requests wait for their answer."""
        return len(self._requests)

    async def run(self, serve: Callable[[Connection], Awaitable[None]]) -> None:
        """Drive the connection until `serve` returns or it ends; then close the socket.

        Cancellation closes it at once; what is unsent is lost.

        Raises:
            NsqError: it ended otherwise than by `serve` returning.
        """
        returned = False
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                if self.lost is not None:  # given up before it had a task
                    self._scope.cancel()
                nursery.start_soon(self._read)
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                try:
                    await serve(self)
                    returned = self.lost is None
                except NsqError as exc:
                    self.close_nowait(exc)
                nursery.cancel_scope.cancel()
        finally:
            self.close_nowait(ConnectionLost("closed"))
            await trio.aclose_forcefully(self._stream)
        if self.lost is not None and not returned:
            raise self.lost

    def close_nowait(self, reason: NsqError) -> None:
        """End the connection for `reason`; the first one counts."""
        if self.lost is not None:
            return
        self.lost = reason
        self._out.clear()
        self._emptied.set()
        kind = NotDone if isinstance(reason, CommandRefused) else ConnectionLost
        unanswered = kind(reason.reason, f"{self.address}: {reason}")
        while self._requests:
            _, on_answer = self._requests.popleft()
            on_answer(unanswered)
        self._scope.cancel()

    def write_nowait(self, command: bytes) -> None:
        """Put a command that has no answer into the out-buffer.

        Overflow: a peer that has not read `max_unsent_bytes` is given up.  Without effect after the end.
        """
        if self.lost is not None:
            return
        self._out.append(command)
        self._unsent_bytes += len(command)
        self._output.set()
        if self._unsent_bytes > self._options.max_unsent_bytes:
            self.close_nowait(ConnectionLost("unread", f"{self._unsent_bytes} bytes unsent"))

    def request_nowait(self, command: bytes, on_answer: OnAnswer) -> None:
        """Put a command into the out-buffer; `on_answer` is called once, with nsqd's answer or why there
        is none.  The deadline is `answer_deadline_s`, after which the connection ends.
        """
        if self.lost is not None:
            on_answer(NotDone(self.lost.reason, f"{self.address} is closed"))
            return
        self._requests.append((trio.current_time(), on_answer))
        self.write_nowait(command)

    async def request(self, command: bytes) -> bytes:
        """Send a command and return nsqd's answer.

        When it is cancelled the command still goes out.

        Raises:
            NsqError: refused, or the connection ended before the answer.
        """
        answered = trio.Event()
        answers: list[bytes | NsqError] = []

        def on_answer(answer: bytes | NsqError) -> None:
            answers.append(answer)
            answered.set()

        self.request_nowait(command, on_answer)
        await answered.wait()
        (answer,) = answers
        if isinstance(answer, NsqError):
            raise answer
        return answer

    async def wait_writable(self) -> None:
        """Wait until less than a batch is unsent, or the connection has ended."""
        while self._unsent_bytes >= self._options.max_batch_bytes and self.lost is None:
            self._emptied = trio.Event()
            await self._emptied.wait()

    async def _write(self) -> None:
        try:
            while True:
                await self._output.wait()
                self._output = trio.Event()
                data = b"".join(self._out)
                self._out.clear()
                for start in range(0, len(data), _SLICE_BYTES):
                    await self._send(data[start : start + _SLICE_BYTES])
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            await trio.sleep(_LAST_WORDS_S)
            self.close_nowait(ConnectionLost("write-broke", str(exc.__cause__ or exc)))

    async def _send(self, data: bytes) -> None:
        self._sending_since = trio.current_time()
        await self._stream.send_all(data)
        self._sending_since = None
        self._unsent_bytes -= len(data)
        self._emptied.set()

    async def _read(self) -> None:
        try:
            while self.lost is None:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
                if not data:
                    self.close_nowait(ConnectionLost("closed-by-nsqd"))
                self._heard_at = trio.current_time()
                for frame in self._codec.frames(bytes(data)):
                    self._take(frame)
        except ProtocolError as exc:
            self.close_nowait(exc)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.close_nowait(ConnectionLost("reset", str(exc.__cause__ or exc)))

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Message):
            self._on_message(self, frame)
        elif isinstance(frame, Reply):
            if frame.payload == codec.HEARTBEAT:
                self.write_nowait(codec.NOP)
            elif self._requests:
                self._requests.popleft()[1](frame.payload)
            else:
                self.close_nowait(ProtocolError(f"an answer that nobody waits for: {frame.payload[:40]!r}"))
        elif frame.code in codec.TOO_LATE:
            self._tally.too_late[frame.code] += 1
        else:
            if self._requests:
                self._requests.popleft()[1](frame)
            self.close_nowait(frame)

    async def _watch(self) -> None:
        """End the connection when the peer is silent, does not answer or does not read.

        A half-open connection gives no error by itself: the other side's end got lost.
        """
        silence_s = 2.4 * self._options.heartbeat_s
        answer_s = self._options.answer_deadline_s
        while self.lost is None:
            await trio.sleep(min(self._options.heartbeat_s, answer_s) / 4)
            now = trio.current_time()
            if now - self._heard_at > silence_s:
                self.close_nowait(ConnectionLost("silent", f"no heartbeat for {silence_s} s"))
            elif self._requests and now - self._requests[0][0] > answer_s:
                self.close_nowait(ConnectionLost("unanswered", f"no answer for {answer_s} s"))
            elif self._sending_since is not None and now - self._sending_since > answer_s:
                self.close_nowait(ConnectionLost("unread", f"not {_SLICE_BYTES} bytes read in {answer_s} s"))
