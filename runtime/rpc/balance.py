"""One way in to several equal servers: by turn, or by key.

The addresses change while it runs (discovery); one that does not answer is skipped until it does.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b

import trio

from runtime.rpc.calls import CallSource
from runtime.rpc.channel import Channel
from runtime.rpc.errors import unavailable
from runtime.rpc.limits import RpcLimits
from runtime.rpc.link import Link
from runtime.rpc.statistics import RpcStatistics


def ranked(key: str, addresses: Iterable[str]) -> list[str]:
    """Return `addresses` in the order of preference of `key` (rendezvous hash).

    The same for everybody; when an address comes or goes, only keys that it wins or held move.
    """
    return sorted(
        addresses,
        key=lambda address: (blake2b(f"{key}\0{address}".encode(), digest_size=8).digest(), address),
        reverse=True,
    )


@dataclass(frozen=True, slots=True)
class BalancerStatistics:
    """What a balancer has done so far.

    Attributes:
        calls: its calls; the counters of connections in it stay 0.
        channels: what each present address has to say, by address.
        ready: the addresses that calls may go to now.
    """

    calls: RpcStatistics
    channels: dict[str, RpcStatistics]
    ready: tuple[str, ...]


class Balancer(CallSource):
    """Calls to whichever server is next.  Owned by `open_balancer`, and dies with its context.

    It connects to every address that it is given, and keeps trying: a call goes to a connection that
    stands.  Without any, a call waits for one for at most `ready_s` and is then UNAVAILABLE.  A call is
    never repeated on another server by itself: whether that is harmless, its caller knows.
    """

    def __init__(
        self, nursery: trio.Nursery, *, tls: ssl.SSLContext | None, server_name: str | None, limits: RpcLimits
    ) -> None:
        super().__init__(limits)
        self._nursery = nursery
        self._tls = tls
        self._server_name = server_name
        self._channels: dict[str, Channel] = {}
        self._turn = 0
        self._changed = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Balancer over {', '.join(self._channels) or 'nobody'}>"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses it was given last."""
        return tuple(self._channels)

    @property
    def ready(self) -> tuple[str, ...]:
        """Those of them that stand."""
        return tuple(address for address, channel in self._channels.items() if channel.ready)

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Call these from now on.

        Calls to an address that is not among them any more go on, and its connection ends with the last
        one: discovery may be wrong, a connection that lives is not.

        Raises:
            ValueError: one is no address; nothing is changed then.
        """
        wanted = dict.fromkeys(addresses)
        fresh = [
            Channel(address, tls=self._tls, server_name=self._server_name, limits=self._limits)
            for address in wanted
            if address not in self._channels
        ]
        for address in [known for known in self._channels if known not in wanted]:
            self._channels.pop(address).close()
        for channel in fresh:
            self._channels[channel.address] = channel
            channel.connect_soon()
            self._nursery.start_soon(self._run_channel, channel, name=f"channel to {channel.address}")
        self._changed.unpark_all()

    def keyed(self, key: str) -> CallSource:
        """Return a source whose calls go to the server that `key` prefers among those that stand."""
        return _Keyed(self, key, self._limits)

    async def wait_ready(self) -> None:
        """Wait until at least one server stands.  The caller has the deadline."""
        while not self.ready:
            await self._changed.park()

    def close(self) -> None:
        """Take no more calls; those that are going on may end."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        self._changed.unpark_all()

    def statistics(self) -> BalancerStatistics:
        """Return what its calls and channels have come to."""
        channels = {address: channel.statistics() for address, channel in self._channels.items()}
        return BalancerStatistics(self.counters.statistics(), channels, self.ready)

    async def __connect__(self) -> Link:
        return await self._connection(key=None)

    async def _connection(self, key: str | None) -> Link:
        # First for the one that is preferred, then for whoever stands.
        for patient in (True, False):
            with trio.move_on_after(self._limits.ready_s / 2):
                while (address := self._choose(key, patient=patient)) is None:
                    await self._changed.park()
                return await self._channels[address].__connect__()
        raise unavailable(self._problem())

    def _choose(self, key: str | None, *, patient: bool) -> str | None:
        """Return the address for the next call; None: wait until something changes."""
        if key is None:
            ready = self.ready
            self._turn += 1
            return ready[self._turn % len(ready)] if ready else None
        for address in ranked(key, self._channels):
            channel = self._channels[address]
            if channel.ready:
                return address
            if patient and not channel.failing:
                # Still on its way: worth half of the wait, or the key would move to and fro.
                return None
        return None

    def _problem(self) -> str:
        problems = (f"{address}: {channel.problem}" for address, channel in self._channels.items())
        return "; ".join(problems) or "no server is known"

    async def _run_channel(self, channel: Channel) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on_changes, channel)
            await channel.run()
            nursery.cancel_scope.cancel()

    async def _pass_on_changes(self, channel: Channel) -> None:
        while True:
            await channel.wait_changed()
            self._changed.unpark_all()


class _Keyed(CallSource):
    """A balancer seen by one key; costs nothing to make, and owns nothing."""

    def __init__(self, balancer: Balancer, key: str, limits: RpcLimits) -> None:
        super().__init__(limits)
        self.counters = balancer.counters
        self._balancer = balancer
        self._key = key

    async def __connect__(self) -> Link:
        return await self._balancer._connection(self._key)


@asynccontextmanager
async def open_balancer(
    addresses: Iterable[str] = (),
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    limits: RpcLimits = RpcLimits(),  # noqa: B008  frozen
) -> AsyncIterator[Balancer]:
    """Open a balancer over `addresses` ("host:port") for stubs: `LogicStub(balancer)`.

    Leaving the context ends calls that other tasks still have open (UNAVAILABLE) and closes all
    connections, within `flush_s`.

    Raises:
        ValueError: one is no address.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        balancer = Balancer(nursery, tls=tls, server_name=server_name, limits=limits)
        try:
            balancer.set_addresses(addresses)
            yield balancer
        except Exception as error:  # raised below, not wrapped in this nursery's group
            failure = error
        finally:
            balancer.close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
