"""Discovery in etcd, under the Go system's keys.

open_etcd_discovery --> gateway.py     HTTP, endpoints, login  --> answers.py: what etcd says
  |- announce       --> announcing.py  a key under a lease     --> entries.py: keys and values
  `- watch          --> watching.py    list, watch, list again --> known.py: who is known, and how long

All announcements and watches of a process go through one gateway.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx2
import trio
from structlog.typing import FilteringBoundLogger

from runtime.discovery.announcing import Announcement
from runtime.discovery.gateway import Gateway, Login, open_gateway
from runtime.discovery.statistics import DiscoveryStatistics
from runtime.discovery.tally import Tally
from runtime.discovery.watching import EtcdPeers
from runtime.sections import Etcd
from runtime.tls import client_context

# On top of the lease: for the pauses between attempts, here and there.
_GRACE_S: Final = 3.0
_SHORTEST_ANSWER_S: Final = 1.0


class EtcdDiscovery:
    """A `runtime.discovery.Discovery`.  `open_etcd_discovery` owns it."""

    def __init__(self, gateway: Gateway, log: FilteringBoundLogger, *, ttl_s: float, entry_s: float) -> None:
        self._gateway = gateway
        self._log = log
        self._ttl_s = ttl_s
        self._entry_s = entry_s
        self._tally = Tally()
        # With what they are called in the statistics.
        self._announcements: dict[Announcement, tuple[str, str]] = {}
        self._peers: dict[EtcdPeers, str] = {}

    @asynccontextmanager
    async def announce(self, service: str, address: str) -> AsyncIterator[None]:
        """Keep `address` announced, from the entry of the context until its exit.

        Entering returns at `[etcd] dialTimeOut` at the latest; the exit withdraws, within 2 s, also when it
        is cancelled.
        """
        announcement = Announcement(
            self._gateway, service, address, ttl_s=self._ttl_s, log=self._log, tally=self._tally
        )
        self._announcements[announcement] = service, address
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(announcement.run)
                with trio.move_on_after(self._entry_s):
                    await announcement.announced.wait()
                yield
                nursery.cancel_scope.cancel()
        finally:
            # After its task: nothing is put again behind the withdrawal.
            await announcement.withdraw()
            del self._announcements[announcement]

    @asynccontextmanager
    async def watch(self, service: str) -> AsyncIterator[EtcdPeers]:
        """Follow the servers of `service`; entering returns at `[etcd] dialTimeOut` at the latest."""
        peers = EtcdPeers(
            self._gateway, service, grace_s=self._ttl_s + _GRACE_S, log=self._log, tally=self._tally
        )
        self._peers[peers] = service
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peers.run)
                nursery.start_soon(peers.run_clock)
                with trio.move_on_after(self._entry_s):
                    await peers.listed.wait()
                yield peers
                nursery.cancel_scope.cancel()
        finally:
            del self._peers[peers]

    def statistics(self) -> DiscoveryStatistics:
        """Return what there is now and was so far."""
        return DiscoveryStatistics(
            announced={name: announcement.is_announced for announcement, name in self._announcements.items()},
            peers={service: len(peers.addresses) for peers, service in self._peers.items()},
            missing=sum(peers.missing for peers in self._peers),
            lists=self._tally.lists,
            changes=self._tally.changes,
            announcements=self._tally.announcements,
            restored=self._tally.restored,
            skipped=dict(self._tally.skipped),
            failures=dict(self._gateway.failures),
        )


@asynccontextmanager
async def open_etcd_discovery(
    etcd: Etcd,
    log: FilteringBoundLogger,
    *,
    ttl_s: float,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncIterator[EtcdDiscovery]:
    """Open discovery at `etcd.addrs`, one at least; nothing is asked yet.

    Args:
        etcd: `[etcd]`.
        log: for what is announced, found and lost.
        ttl_s: how long what is announced outlives a process that was killed; whole seconds, rounded up,
            and etcd may make more of it.
        transport: what to send requests by, instead of over sockets.

    Raises:
        SetupError: a certificate, key or authority cannot be read.
    """
    tls = None
    if etcd.ca_file or etcd.cert_file:
        tls = client_context("[etcd]", ca=etcd.ca_file, certificate=etcd.cert_file, key=etcd.key_file)
    login = Login(etcd.user, etcd.password) if etcd.password is not None else None
    # A dead endpoint must not cost a lease: there are two thirds of its time to find another.
    answer_s = min(etcd.dial_timeout_s, max(_SHORTEST_ANSWER_S, ttl_s / 3))
    async with open_gateway(
        etcd.addrs, answer_s=answer_s, tls=tls, login=login, transport=transport
    ) as gateway:
        yield EtcdDiscovery(gateway, log, ttl_s=ttl_s, entry_s=etcd.dial_timeout_s)
