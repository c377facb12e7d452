"""Discovery without anybody to ask: the settings say who there is, and that never changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import trio
from structlog.typing import FilteringBoundLogger

from runtime.discovery.statistics import DiscoveryStatistics


class StaticPeers:
    """A `runtime.discovery.Peers` that stays as it is."""

    def __init__(self, addresses: frozenset[str]) -> None:
        self._addresses = addresses

    @property
    def addresses(self) -> frozenset[str]:
        return self._addresses

    async def wait_changed(self, seen: frozenset[str]) -> frozenset[str]:
        """Return at once if `seen` is something else, and never otherwise."""
        if seen == self._addresses:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self._addresses


class StaticDiscovery:
    """A `runtime.discovery.Discovery` of fixed lists.  It owns nothing that would have to be closed."""

    def __init__(self, peers: Mapping[str, Iterable[str]], log: FilteringBoundLogger) -> None:
        """Take the lists.

        Args:
            peers: service -> its addresses; a service that is not in it has none.
            log: told what would have been announced.
        """
        self._peers = {service: frozenset(addresses) for service, addresses in peers.items()}
        self._log = log

    @asynccontextmanager
    async def announce(self, service: str, address: str) -> AsyncIterator[None]:
        """Tell nobody: whoever wants to reach `address` has it in its own settings."""
        self._log.info("not announced: no etcd is set", service_name=service, address=address)
        await trio.lowlevel.checkpoint()
        yield

    @asynccontextmanager
    async def watch(self, service: str) -> AsyncIterator[StaticPeers]:
        """Know the servers of `service` that the settings name."""
        addresses = self._peers.get(service, frozenset())
        self._log.info("peers are fixed: no etcd is set", service_name=service, addresses=sorted(addresses))
        await trio.lowlevel.checkpoint()
        yield StaticPeers(addresses)

    def statistics(self) -> DiscoveryStatistics:
        """Return how many addresses each service has."""
        return DiscoveryStatistics(
            peers={service: len(addresses) for service, addresses in self._peers.items()}
        )
