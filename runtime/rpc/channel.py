"""The client's way to one address: connects on the first call, and again whenever the connection is lost."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio
from grpclib.client import Handler
from structlog.typing import FilteringBoundLogger

from runtime.rpc.calls import CallSource
from runtime.rpc.errors import unavailable
from runtime.rpc.limits import RpcLimits
from runtime.rpc.link import Link
from runtime.rpc.statistics import RpcStatistics
from runtime.rpc.transport import bound_silence
from runtime.units import split_peer

_log: Final[FilteringBoundLogger] = structlog.get_logger("rpc")
# UnicodeError: a server name that is none.
_FAILURES: Final = (OSError, UnicodeError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)


class Backoff:
    """How long to wait before the next attempt: doubled up to a cap, and drawn from half to all of it."""

    def __init__(self, first_s: float, cap_s: float, dice: random.Random) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s
        self._dice = dice

    def reset(self) -> None:
        """Begin anew: the peer has been there."""
        self._next_s = self._first_s

    def draw_s(self) -> float:
        """Return the next pause in seconds."""
        pause_s = self._next_s * self._dice.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, self._cap_s)
        return pause_s


class Channel(CallSource):
    """Calls to one address over one connection at a time.  Owned by `open_channel`.

    An old connection that the server has sent away (GOAWAY) finishes its calls beside the new one.

    Args:
        address: "host:port".
        tls: the client's context (`tls.client_tls`); None: cleartext.
        server_name: whom the certificate must name, where it is not the host of the address.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        limits: RpcLimits = RpcLimits(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(limits)
        self.address = address
        self._host, self._port = split_peer(address)
        self._tls = tls
        self._server_name = server_name or self._host
        self._backoff = Backoff(limits.backoff_s, limits.backoff_cap_s, random.Random())  # noqa: S311
        self._keepalive_s = limits.keepalive_s
        self._wanted = trio.Event()
        self._closed = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        self._link: Link | None = None
        self._failing = False
        self._problem = "not connected yet"

    def __repr__(self) -> str:
        return f"<Channel to {self.address}>"

    @property
    def ready(self) -> bool:
        """Whether a call would go out at once."""
        return self._usable() is not None

    @property
    def problem(self) -> str:
        """What the last failure was."""
        return self._problem

    def close(self) -> None:
        """Take no more calls; those that are going on may end, and then the connection is closed."""
        self._closed.set()
        if self._link is not None:
            self._link.drain()
        self._set_link(None)

    def statistics(self) -> RpcStatistics:
        """Return what its calls and connections have come to."""
        return self.counters.statistics()

    async def wait_changed(self) -> None:
        """Wait until it gets or loses its connection, or an attempt fails."""
        await self._changed.park()

    async def __connect__(self) -> Link:
        """Return the connection, after at most `ready_s`.

        Raises:
            RpcError: UNAVAILABLE.
        """
        self._wanted.set()
        link = self._usable()
        if link is None:
            with trio.move_on_after(self._limits.ready_s):
                link = await self._wait_link()
        if link is None:
            problem = "the channel is closed" if self._closed.is_set() else self._problem
            raise unavailable(f"{self.address}: {problem}")
        return link

    async def _wait_link(self) -> Link | None:
        while (link := self._usable()) is None and not self._closed.is_set():
            await self._changed.park()
        return link

    def _usable(self) -> Link | None:
        """Return the connection, unless it has ended and that has not come round yet."""
        return self._link if self._link is not None and self._link.connection.takes_calls else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the channel connected, from the first call until it is closed and its calls have ended."""
        async with trio.open_nursery() as links:
            task_status.started()
            async with trio.open_nursery() as watch:
                watch.start_soon(self._keep_connected, links)
                await self._closed.wait()
                watch.cancel_scope.cancel()

    async def _keep_connected(self, links: trio.Nursery) -> None:
        await self._wanted.wait()
        while True:
            link = await self._open_link(links)
            if link is not None:
                self._set_link(link)
                await link.connection.retired.wait()
                self._set_link(None)
                self._problem = link.why
                if link.too_many_pings:
                    # The peer's policy (Go: five minutes) is not announced otherwise.
                    self._keepalive_s *= 2
                if link.proved:
                    self._backoff.reset()
                    continue
            await trio.sleep(self._backoff.draw_s())

    async def _open_link(self, links: trio.Nursery) -> Link | None:
        """Connect within `connect_s`; None if that failed."""
        problem = "no answer"
        try:
            with trio.move_on_after(self._limits.connect_s):
                stream = await self._open_stream()
                link = self._make_link()
                await links.start(link.run, stream)
                if await _is_usable(link):
                    return link
                problem = link.why
        except _FAILURES as error:
            problem = str(error.__cause__ or error) or type(error).__name__
        self._note_failure(problem)
        return None

    def _make_link(self) -> Link:
        link = Link(Handler(), self._limits, self.counters, client_side=True, keepalive_s=self._keepalive_s)
        link.scheme = "https" if self._tls else "http"
        link.authority = self.address
        return link

    async def _open_stream(self) -> trio.abc.Stream:
        stream = await trio.open_tcp_stream(self._host, self._port)
        bound_silence(stream, self._limits.stall_s)
        if self._tls is None:
            return stream
        secure = trio.SSLStream(stream, self._tls, server_hostname=self._server_name, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(secure)
            raise
        if secure.selected_alpn_protocol() != "h2":
            await trio.aclose_forcefully(secure)
            raise trio.BrokenResourceError("the server does not speak HTTP/2 over TLS")
        return secure

    def _set_link(self, link: Link | None) -> None:
        if link is not None and self._failing:
            _log.info("connected again", address=self.address)
        if link is not None:
            self._failing = False
        self._link = link
        self._changed.unpark_all()

    def _note_failure(self, problem: str) -> None:
        self._problem = problem
        self.counters.failures["connect"] += 1
        if not self._failing:
            # Once: attempts go on every second.
            _log.warning("cannot connect", address=self.address, problem=problem)
        self._failing = True
        self._changed.unpark_all()


async def _is_usable(link: Link) -> bool:
    """Wait for the peer's settings; a link that does not come so far is closed, also on cancellation."""
    try:
        async with trio.open_nursery() as either:
            either.start_soon(_cancel_after, link.connection.retired, either.cancel_scope)
            await link.settled.wait()
            either.cancel_scope.cancel()
    except BaseException:
        link.drain()
        raise
    return link.settled.is_set() and link.connection.takes_calls


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


@asynccontextmanager
async def open_channel(
    address: str,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    limits: RpcLimits = RpcLimits(),  # noqa: B008  frozen
) -> AsyncIterator[Channel]:
    """Open a channel to `address` ("host:port") for stubs: `LogicStub(channel)`.

    Nothing is connected before the first call.  Leaving the context ends calls that other tasks still
    have open (UNAVAILABLE) and closes the connection, within `flush_s`.
    """
    channel = Channel(address, tls=tls, server_name=server_name, limits=limits)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        try:
            yield channel
        except Exception as error:  # raised below, not wrapped in this nursery's group
            failure = error
        finally:
            channel.close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
