"""Choose by the settings how servers are found, and open it: what a composition root calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from structlog.typing import FilteringBoundLogger

from runtime.discovery.etcd import EtcdDiscovery, open_etcd_discovery
from runtime.discovery.static import StaticDiscovery
from runtime.sections import Etcd


@asynccontextmanager
async def open_discovery(
    etcd: Etcd, static: Mapping[str, Iterable[str]], log: FilteringBoundLogger, *, ttl_s: float
) -> AsyncIterator[EtcdDiscovery | StaticDiscovery]:
    """Open a `runtime.discovery.Discovery`: etcd's where `[etcd] addrs` says where it is, else a static one.

    Nothing is asked yet, so that this neither waits nor fails for want of etcd.  One is enough for a
    process: all it announces and watches goes over the same connections.

    Args:
        etcd: `[etcd]`.
        static: service -> its addresses, for the static one; with etcd they are not used.
        log: for what is announced, found and lost.
        ttl_s: `[srv] ttl`: how long what is announced outlives a process that was killed.

    Raises:
        runtime.failures.SetupError: a certificate, key or authority cannot be read.
    """
    if not etcd.addrs:
        yield StaticDiscovery(static, log)
        return
    async with open_etcd_discovery(etcd, log, ttl_s=ttl_s) as discovery:
        yield discovery
