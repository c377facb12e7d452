"""A job worker as a process: what it runs, in which order it starts and stops.

serve
 |- admin port, loop lag                     outlive everything else
 `- discovery, open_worker (worker.py)
     |- links
     |   |- readiness
     |   `- one per conn server: a channel, its stream and its lane, opened and closed together
     `- announced                            withdrawn first on drain; then consumers stop, feeds flush,
                                             lanes empty, FIN; the rest goes back to the queue
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

from job_worker.rpc import RemoteConn
from job_worker.settings import JobSettings, Nsq
from job_worker.worker import Worker, WorkerStatistics, open_worker
from runtime.admin import Readiness, open_admin
from runtime.discovery import Peers
from runtime.discovery.choice import open_discovery
from runtime.lifecycle import Drain
from runtime.metrics import Metrics
from runtime.queue.nsq import NsqConsumer, NsqOptions, NsqQueue, options_from
from runtime.rpc.channel import Channel, open_channel
from runtime.rpc.tls import dialing_tls

CLOSING_S: Final = 2.0
"""Of the drain, kept for giving back to the queue what could not be delivered, or a quarter of it if less."""
READINESS_INTERVAL_S: Final = 0.5
CONN_SERVERS: Final = "conn servers"
QUEUE: Final = "queue"


async def serve(
    settings: JobSettings,
    drain: Drain,
    log: FilteringBoundLogger,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `drain` has begun and what is on loan from the queue has been delivered or given back.

    Args:
        settings: all of them.
        drain: begins the stop, and has its deadline.
        log: for what an operator should know.
        task_status: gets the address of the admin port, once conn servers are looked for.

    Raises:
        runtime.failures.SetupError, OSError: what is to be mended in the settings; maybe in a group.
    """
    tls, queue = dialing_tls(settings.tls), NsqQueue(nsq_options(settings.nsq))
    registration, rpc = settings.registration, settings.rpc
    admin_address = settings.admin.address(registration.listen_address)
    static = {rpc.conn_service: rpc.conns}
    async with (
        open_admin(admin_address, Readiness(CONN_SERVERS, QUEUE), log) as admin,
        open_discovery(settings.etcd, static, log, ttl_s=registration.ttl_s) as discovery,
        discovery.watch(rpc.conn_service) as conns,
        open_worker(settings, queue, log) as worker,
        trio.open_nursery() as links,
    ):
        metrics, readiness = admin.metrics, admin.readiness
        register(metrics, worker)
        metrics.register("discovery", discovery.statistics, gauges=("announced", "peers", "missing"))
        links.start_soon(watch_readiness, worker, readiness)
        links.start_soon(keep_links, conns, Linking(settings, worker, metrics, log, tls))
        async with discovery.announce(registration.service_name, registration.advertised()):
            log.info("serving", admin=admin.address, conn_servers=sorted(conns.addresses))
            task_status.started(admin.address)
            await drain.draining.wait()
            readiness.fail("drain", "draining")
        await worker.drain(drain.deadline - min(CLOSING_S, drain.timeout_s / 4))
        links.cancel_scope.cancel()


def nsq_options(nsq: Nsq) -> NsqOptions:
    """Return how to reach and treat nsqd.

    Raises:
        SetupError: a certificate, key or authority cannot be read.
    """
    # Nothing is on loan any more when the worker closes its consumers.
    return options_from(nsq, lookupd=nsq.lookupd, msg_timeout_s=nsq.msg_timeout_s, drain_deadline_s=0.5)


def register(metrics: Metrics, worker: Worker) -> None:
    """Show the worker's numbers, and its consumers'."""
    metrics.register("job", worker.statistics, gauges=WorkerStatistics.GAUGES)
    for number, consumer in enumerate(worker.consumers):
        if isinstance(consumer, NsqConsumer):
            metrics.register(
                "consumer",
                consumer.statistics,
                gauges=("nsqds", "connections", "on_loan", "waiting"),
                labels={"partition": str(number)},
            )


async def watch_readiness(worker: Worker, readiness: Readiness) -> None:
    """Say for ever whether there is somebody to consume from, and to deliver to."""
    while True:
        lost = [
            consumer
            for consumer in worker.consumers
            if isinstance(consumer, NsqConsumer) and not consumer.statistics().connections
        ]
        for condition, problem in (
            (QUEUE, "not connected to any nsqd" if lost else ""),
            (CONN_SERVERS, "" if worker.has_conn_servers else "none is known"),
        ):
            if problem:
                readiness.fail(condition, problem)
            else:
                readiness.meet(condition)
        await trio.sleep(READINESS_INTERVAL_S)


@dataclass(frozen=True, slots=True)
class Linking:
    """What a link to a conn server is made of; without `tls` it is cleartext."""

    settings: JobSettings
    worker: Worker
    metrics: Metrics
    log: FilteringBoundLogger
    tls: ssl.SSLContext | None


class Link:
    """The way to one conn server: as long as discovery knows it, and then as long as it is connected.

    A conn server that drains is withdrawn first, and has members until the last one has been sent away; one
    that stood still may be withdrawn and come again.  The channel finds out when nobody is there any more.
    """

    def __init__(self, address: str, linking: Linking) -> None:
        self._address = address
        self._linking = linking
        self._is_known = True
        self._scope = trio.CancelScope()
        self._channel: Channel | None = None

    def stay(self) -> None:
        """Keep the way open: discovery knows the conn server (again)."""
        self._is_known = True

    def leave(self) -> None:
        """End the way with its connection, now if there is none."""
        self._is_known = False
        if self._channel is None or not self._channel.ready:
            self._scope.cancel()

    async def run(self, ended: Callable[[str], None]) -> None:
        """Run until the way has ended when the conn server is not known any more.

        Args:
            ended: called with the address in the step in which that is found.
        """
        while self._is_known:
            with trio.CancelScope() as self._scope:
                await self._run_channel()
        ended(self._address)

    async def _run_channel(self) -> None:
        """Run channel, stream and lane; they end together."""
        linking, address = self._linking, self._address
        lane_settings, metrics = linking.settings.lane, linking.metrics
        tls, server_name = linking.tls, linking.settings.tls.server_name or None
        unregister: list[Callable[[], None]] = []
        try:
            async with (
                open_channel(address, tls=tls, server_name=server_name) as channel,
                trio.open_nursery() as nursery,
            ):
                self._channel = channel
                server = RemoteConn(channel, lane_settings.call_timeout_s, linking.log)
                lane = await nursery.start(linking.worker.run_lane, address, server)
                labels = {"conn": address}
                gauges = ("batches", "held_bytes", "detached", "slow", "behind")
                unregister += [
                    metrics.register("lane", lane.statistics, gauges=gauges, labels=labels),
                    metrics.register(
                        "rpc", channel.statistics, gauges=("in_flight", "connections"), labels=labels
                    ),
                ]
                await server.run(is_wanted=lambda: self._is_known or channel.ready)
                nursery.cancel_scope.cancel()
        finally:
            self._channel = None
            for each in unregister:
                each()


async def keep_links(conns: Peers, linking: Linking) -> None:
    """Keep one link for each conn server that is known, or has been and is still there, until cancelled."""
    links: dict[str, Link] = {}
    known: frozenset[str] = frozenset()

    def ended(address: str) -> None:
        del links[address]
        linking.log.info("conn server gone", address=address)

    async with trio.open_nursery() as nursery:
        while True:
            known = await conns.wait_changed(known)
            for address, link in links.items():
                if address in known:
                    link.stay()
                else:
                    link.leave()
            for address in known - links.keys():
                link = links[address] = Link(address, linking)
                linking.log.info("conn server found", address=address)
                nursery.start_soon(link.run, ended, name=f"conn server {address}")
