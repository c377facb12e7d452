"""What is done to a cluster under load: each fault begins, lasts, and is over when all is ready again."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

import trio

from tests.integration.cluster import Cluster
from tests.integration.service import Service

OUTAGE_S: Final = 1.0
PAUSE_S: Final = 2.0  # shorter than a lease, and than the deadline of a push
KEYS_WITHIN_S: Final = 30.0

Fault = Callable[[Cluster, int], Awaitable[None]]
"""(cluster, a random number): chooses one of several by the number."""


def _service(kind: str, act: Callable[[Service], Awaitable[None]]) -> Fault:
    async def fault(cluster: Cluster, chance: int) -> None:
        those = [service for service in cluster.services if service.kind == kind]
        service = those[chance % len(those)]
        await act(service)
        with trio.fail_after(KEYS_WITHIN_S):
            await cluster.wait_keys(service, present=True)

    return fault


async def _restart(service: Service) -> None:
    assert await service.end() == 0, f"{service.name} did not end well"
    await service.start()


async def _kill(service: Service) -> None:
    await service.restart(signal.SIGKILL)


async def _pause(service: Service) -> None:
    service.pause()
    await trio.sleep(PAUSE_S)
    service.go_on()


async def _restart_nsqd(cluster: Cluster, _: int) -> None:
    await cluster.nsqd.end()
    await trio.sleep(OUTAGE_S)
    await cluster.nsqd.start()


async def _pause_nsqd(cluster: Cluster, _: int) -> None:
    await cluster.nsqd.pause()
    await trio.sleep(PAUSE_S)
    cluster.nsqd.go_on()


def _etcd(*, wiped: bool) -> Fault:
    async def fault(cluster: Cluster, _: int) -> None:
        await cluster.etcd.end()
        if wiped:
            cluster.etcd.wipe()
        await trio.sleep(OUTAGE_S)
        await cluster.etcd.start()
        with trio.fail_after(KEYS_WITHIN_S):
            await cluster.wait_keys(*cluster.services, present=True)

    return fault


async def _pause_etcd(cluster: Cluster, _: int) -> None:
    cluster.etcd.freeze()
    await trio.sleep(PAUSE_S)
    cluster.etcd.thaw()


FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        **{
            f"{kind} {what}": _service(kind, act)
            for kind in ("conn", "logic", "job")
            for what, act in (("restarted", _restart), ("killed", _kill), ("paused", _pause))
        },
        "nsqd restarted": _restart_nsqd,
        "nsqd paused": _pause_nsqd,
        "etcd restarted": _etcd(wiped=False),
        "etcd wiped": _etcd(wiped=True),
        "etcd paused": _pause_etcd,
    }
)
# nsqd killed is not among them: what it had given out is lost with it, whatever its flags are.
