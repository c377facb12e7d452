"""The client of an application: sign in, publish, receive; docs/wire.md parts 1 and 2.

open_client
 |- link.run      the connection (link.py)
 `- _beat         a heartbeat every third of the server's timeout
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from clients.python.errors import (
    ClientError,
    Closed,
    Disconnected,
    NoAnswer,
    PublishRefused,
    RequestRefused,
    SignInRefused,
    own_errors,
)
from clients.python.frames import (
    Answer,
    Received,
    Verdict,
    decode_push,
    decode_verdict,
    encode_publish,
    encode_sign_in,
)
from clients.python.inbox import Inbox, Offer
from clients.python.link import Link
from clients.python.options import Options, Statistics
from schema.closing import CloseCode
from schema.envelope import PackageType, SignedIn
from schema.message import Level, Malformed

GO_ERA_HEARTBEAT_S = 60.0
NORMAL_END = Closed(CloseCode.NORMAL, "")


class Client:
    """One signed-in connection.  Made by `open_client` and dead with it; not to be constructed.

    Attributes:
        version: the client generation that it plays.
        room: the room it is in; "" before the sign-in.
        signed_in: what the server said to the last sign-in; None from a Go-era server or to version 0.
    """

    def __init__(self, version: int, options: Options) -> None:
        self.version = version
        self.room = ""
        self.signed_in: SignedIn | None = None
        self._options = options
        self._token = ""
        self._inbox = Inbox(options.max_buffered_messages, options.max_buffered_bytes)
        self._arrived = trio.Event()
        self._pushes = 0
        self._messages = 0
        self._link = Link(version, options.deadlines, self._take_push)

    @property
    def closed(self) -> Closed | None:
        """Why the connection ended, or None while it is open."""
        return self._link.closed

    async def wait_closed(self) -> Closed:
        """Wait until the connection has ended, for as long as it lives; return why."""
        await self._link.ended.wait()
        return self._link.closed or NORMAL_END

    async def publish(
        self, data: bytes, level: Level = Level.NORMAL, *, ack: bool = True, room: str | None = None
    ) -> None:
        """Say `data` in the client's room, or in `room`.

        With `ack` it returns once the queue has the message.  Without, and always for a Go-era client, it
        returns once the message is written.  Cancelled, the message may have been taken or not.

        Raises:
            PublishRefused: the server says why.
            NoAnswer: no answer in time; it may have been taken.
            Disconnected: the connection has ended; it may have been taken.
        """
        body = encode_publish(self.room if room is None else room, level, data)
        answer = await self._link.request(PackageType.MESSAGE, body, wants_answer=ack and self.version > 0)
        if answer is not None:
            verdict = _verdict(answer)
            if verdict.code:
                raise PublishRefused(verdict.code, verdict.text)

    async def members(self) -> int:
        """Ask how many members the room has.

        Raises:
            RequestRefused, NoAnswer, Disconnected: as with `publish`.
        """
        answer = await self._ask(PackageType.MEMBERS)
        if answer.data.isdigit():
            return int(answer.data)
        raise ClientError(f"{answer.data!r} is not a number of members")

    async def heartbeat(self) -> float:
        """Send a heartbeat at once, besides those that are sent anyway; return the round trip in seconds.

        Raises:
            RequestRefused, NoAnswer, Disconnected: as with `publish`.
        """
        start = trio.current_time()
        await self._ask(PackageType.HEARTBEAT)
        return trio.current_time() - start

    async def switch(self, room: str, *, token: str | None = None) -> None:
        """Leave the room and join `room`; with a new `token` and the same room, renew the token.

        Refused, the client stays where it is.  What was received before can still be read.

        Raises:
            SignInRefused: the server says why.
            NoAnswer, Disconnected: as with `publish`; which room the client is in is then unknown.
        """
        token = self._token if token is None else token
        answer = await self._link.request(PackageType.SIGN_IN, encode_sign_in(token, room, self.version))
        verdict = _verdict(answer)
        if verdict.code:
            raise SignInRefused(verdict.code, verdict.text)
        self._token, self.room, self.signed_in = token, room, verdict.signed_in

    async def receive(self) -> Received:
        """Return the next message, waiting as long as the connection lives; heartbeats bound that.

        Cancelling loses nothing.

        Raises:
            Disconnected: the connection has ended, and all that had arrived is read.
        """
        await trio.lowlevel.checkpoint()
        while (message := self._inbox.take_nowait()) is None:
            if self._link.closed is not None:
                raise Disconnected(self._link.closed)
            await self._arrived.wait()
        return message

    def messages(self) -> AsyncIterator[Received]:
        """Iterate over messages as they arrive; ends with the connection, `closed` then says why.

        Several iterators share the messages: each message is given once.
        """
        return _Messages(self)

    def statistics(self) -> Statistics:
        """Return the counters."""
        return Statistics(
            frames_sent=self._link.frames_sent,
            frames_received=self._link.frames_received,
            pushes=self._pushes,
            messages=self._messages,
            buffered=len(self._inbox),
            buffered_bytes=self._inbox.size_bytes,
            dropped=self._inbox.dropped,
            malformed=self._link.malformed,
            unexpected=self._link.unexpected,
        )

    async def _run(
        self, url: str, ssl_context: ssl.SSLContext | None, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Serve the connection until it ends; then wake who waits for messages."""
        try:
            await self._link.run(url, self._options.max_frame_bytes, ssl_context, task_status=task_status)
        finally:
            self._wake()

    async def _beat(self) -> None:
        """Send heartbeats until the connection ends; end it when one is not answered as such."""
        while True:
            await trio.sleep(self._heartbeat_interval_s())
            try:
                await self.heartbeat()
            except NoAnswer:
                self._link.abort(Closed(CloseCode.HEARTBEAT_TIMEOUT, "a heartbeat was not answered"))
                return
            except Disconnected:
                return
            except ClientError as error:  # refused, or no sense: a task of ours must not raise into the block
                self._link.abort(Closed(CloseCode.ABNORMAL, f"a heartbeat was not answered as one: {error}"))
                return

    def _heartbeat_interval_s(self) -> float:
        if self._options.heartbeat_interval_s is not None:
            return self._options.heartbeat_interval_s
        if self.signed_in is None or not self.signed_in.heartbeat_timeout_s:
            return GO_ERA_HEARTBEAT_S
        return self.signed_in.heartbeat_timeout_s / 3

    async def _ask(self, type_: PackageType) -> Answer:
        answer = await self._link.request(type_)
        if answer is None or answer.type != type_:
            verdict = _verdict(answer)
            raise RequestRefused(verdict.code, verdict.text)
        return answer

    def _take_push(self, data: bytes) -> Closed | None:
        messages = decode_push(data, self._pushes + 1)
        self._pushes += 1
        self._messages += len(messages)
        offers = [self._inbox.offer(message) for message in messages]
        self._wake()
        if Offer.OVERFULL in offers:
            return Closed(CloseCode.SLOW_CONSUMER, "the application does not read")
        return None

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = trio.Event()


class _Messages:
    """What `Client.messages` gives.  No async generator: nothing needs closing when one stops early."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Received:
        try:
            return await self._client.receive()
        except Disconnected:
            raise StopAsyncIteration from None


@asynccontextmanager
async def open_client(
    url: str,
    *,
    token: str,
    room: str,
    version: int = 1,
    options: Options | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Client]:
    """Connect to `url` ("ws://HOST:8081/room") and sign in; leaving the block closes the connection.

    Version 0 plays a Go-era client: no ids, no acknowledgements, nothing known about senders.

    Raises:
        ConnectFailed: no server, or none that answers the upgrade.
        SignInRefused: the token is not valid, or the room not allowed.
        NoAnswer: the sign-in was not answered in time.
        Disconnected: the connection ended during the sign-in.
    """
    client = Client(version, options or Options())
    with own_errors():
        async with trio.open_nursery() as nursery:
            await nursery.start(client._run, url, ssl_context)
            try:
                await client.switch(room, token=token)
                nursery.start_soon(client._beat)
                yield client
            finally:
                await client._link.aclose(NORMAL_END)
                nursery.cancel_scope.cancel()


def _verdict(answer: Answer | None) -> Verdict:
    try:
        return decode_verdict(b"" if answer is None else answer.data)
    except Malformed as exc:
        raise ClientError(f"the answer is not to be understood: {exc}") from exc
