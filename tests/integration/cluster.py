"""A whole cluster for tests: etcd, nsqd, conn servers, logic servers and job workers, a process each.

async with open_cluster(etcd_path, tmp_path) as cluster:
    async with cluster.join("user 1", "lobby", server=1) as client: ...
    await cluster.logics[0].restart()                     # service.py: end, kill, start, pause, go_on
    await cluster.nsqd.restart()                          # daemons.py
    await cluster.etcd.restart(wiped=True)                # tests/etcd.py
    assert cluster.conns[0].key in await cluster.etcd.keys()

Everything listens on free ports of loopback, and is killed by its pid at the end.  When the block fails,
the last lines of all logs are printed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import trio

from clients.python import Client, open_client
from schema.tokens import TokenAuthority
from tests.etcd import Etcd, start_etcd
from tests.integration.service import Service
from tests.runtime.queue.nsq.daemons import Daemon, Flags, best_kind, open_nsqd

# As long as the Go system's own, which is too short for HS256.
SECRET = "a secret of thirty-one bytes, k"
KNOWN = (("chat_room", "room_job"),)


Settings = Mapping[str, Mapping[str, str]]
"""By kind of service, what its example file is overridden with."""


@dataclass
class Cluster:
    """A cluster that serves.  `open_cluster` owns it and all its processes."""

    etcd: Etcd
    nsqd: Daemon
    folder: Path
    settings: Settings
    conns: list[Service] = field(default_factory=list)
    logics: list[Service] = field(default_factory=list)
    jobs: list[Service] = field(default_factory=list)

    @property
    def services(self) -> list[Service]:
        return [*self.logics, *self.conns, *self.jobs]

    def add(self, kind: str) -> Service:
        """Make one more service, which is not started; the cluster ends it."""
        siblings = {"conn": self.conns, "logic": self.logics, "job": self.jobs}[kind]
        siblings.append(Service(kind, len(siblings) + 1, self.folder, self.settings[kind]))
        return siblings[-1]

    def join(
        self, user: str, room: str, *, server: int = 0, version: int = 1
    ) -> AbstractAsyncContextManager[Client]:
        """Open a client at one of the conn servers."""
        url = f"ws://{self.conns[server].clients}/room"
        return open_client(url, token=token_of(user), room=room, version=version)

    async def wait_keys(self, *services: Service, present: bool) -> None:
        """Wait until etcd has all the keys of `services`, or none of them; the caller has a deadline."""
        wanted = {service.key for service in services}
        while True:
            if wanted & (await self.etcd.keys()).keys() == (wanted if present else set()):
                return
            await trio.sleep(0.02)

    def tails(self) -> str:
        return "\n".join(f"----- {service.name}\n{service.tail()}" for service in self.services)


def token_of(user: str) -> str:
    return TokenAuthority(SECRET.encode()).issue(user, time.time())


def settings_of(etcd: Etcd, nsqd: Daemon, more: Settings) -> Settings:
    """Return where things are, the secret for who needs it, and `more`."""
    everywhere = {
        "ROOMCAST_ETCD__ADDRS": etcd.address,
        "ROOMCAST_LOG__FORMAT": "json",
        "ROOMCAST_DRAIN__TIMEOUT": "5s",
    }
    queue = {"ROOMCAST_NSQ__ADDR": nsqd.address}
    token = {"ROOMCAST_TOKEN_SECRET": SECRET, "ROOMCAST_TOKEN__ALLOW_SHORT_KEY": "true"}
    own: Settings = {"conn": {}, "logic": queue | token, "job": queue}
    return {kind: {**everywhere, **own[kind], **more.get(kind, {})} for kind in own}


@asynccontextmanager
async def open_cluster(
    etcd_path: str,
    folder: Path,
    *,
    conns: int = 2,
    logics: int = 2,
    jobs: int = 1,
    kind: str = "",
    settings: Settings = MappingProxyType({}),
) -> AsyncIterator[Cluster]:
    """Start a cluster and wait until all of it is ready.

    Args:
        etcd_path: what the fixture of that name has found.
        folder: for data and logs.
        conns, logics, jobs: how many processes of each.
        kind: "fake" or "real" nsqd; the best there is by default.
        settings: more of them: `{"job": {"ROOMCAST_NSQ__MSGTIMEOUT": "2s"}}`.
    """
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(start_etcd(etcd_path, folder))
        opening = open_nsqd(kind or best_kind(), folder / "nsqd", Flags(known=KNOWN), wired=False)
        nsqd = await stack.enter_async_context(opening)
        cluster = Cluster(etcd, nsqd, folder, settings_of(etcd, nsqd, settings))
        stack.push_async_callback(_close, cluster)
        for name, count in (("logic", logics), ("conn", conns), ("job", jobs)):
            for _ in range(count):
                cluster.add(name)
        try:
            async with trio.open_nursery() as nursery:
                for service in cluster.services:
                    nursery.start_soon(service.start)
            yield cluster
        except BaseException:
            print(cluster.tails())  # pytest shows it beside what failed
            raise


async def _close(cluster: Cluster) -> None:
    with trio.CancelScope(shield=True):
        for service in cluster.services:
            await service.aclose()
