"""Logic servers for the length of a test, each with a queue in the test's hands, and a list that changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

import trio

from conn_server.links import LogicLinks, LogicOptions
from conn_server.rpc import open_logic
from logic_server.rpc import LinkOptions, LogicService
from runtime.rpc.server import RpcServer, Service, serve_rpc
from tests.logic_server.fakes import FakeProducer, fake_logic
from tests.ports import free_port
from tests.runtime.rpc.probe import LIMITS, until

OPTIONS = LogicOptions(rpc=LIMITS, open_s=1.0, stall_s=5.0, call_s=2.0, homeless_s=0.5)


class FakePeers:
    """A `runtime.discovery.Peers` that a test changes."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._addresses = frozenset(addresses)
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def addresses(self) -> frozenset[str]:
        return self._addresses

    def set(self, *addresses: str) -> None:
        self._addresses = frozenset(addresses)
        self._changed.unpark_all()

    async def wait_changed(self, seen: frozenset[str]) -> frozenset[str]:
        while self._addresses == seen:
            await self._changed.park()
        return self._addresses


class LogicNode:
    """A logic server that can be ended, and started again at the same address.  Owned by a test's nursery."""

    def __init__(self, nursery: trio.Nursery, service: Service | None = None) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.producer = FakeProducer()
        self.logic = fake_logic(self.producer)
        self.service = LogicService(self.logic, LinkOptions())
        self.server: RpcServer
        self._served: Service = service or self.service
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def start(self) -> LogicNode:
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.server = await self._nursery.start(self._run)
        return self

    async def _run(self, *, task_status: trio.TaskStatus[RpcServer]) -> None:
        with self._scope:
            await serve_rpc([self._served], self.address, limits=LIMITS, task_status=task_status)
        self._ended.set()

    async def end(self) -> None:
        self._scope.cancel()
        await self._ended.wait()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the messages that are stored."""
        return [each.origin_seq for each in self.producer.messages]


@asynccontextmanager
async def nodes(*services: Service | None) -> AsyncIterator[list[LogicNode]]:
    """Start a logic server for each of `services`; None is one of ours."""
    async with trio.open_nursery() as nursery:
        started = [await LogicNode(nursery, service).start() for service in services]
        yield started
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(peers: FakePeers, options: LogicOptions = OPTIONS) -> AsyncIterator[LogicLinks]:
    """Open links to all of `peers`, and wait until they are."""
    async with open_logic(peers, options) as links:
        await until(partial(_all_open, links, peers))
        yield links


def _all_open(links: LogicLinks, peers: FakePeers) -> bool:
    return links.statistics().open == len(peers.addresses)
