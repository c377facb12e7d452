"""A logic server as a process: what it runs, in which order it starts and stops.

serve
 |- admin port, loop lag                     outlive everything else
 `- discovery, producer of the queue
     |- readiness
     `- gRPC server                          on drain its links are told to leave, and what they had
         |                                   asked before they knew is answered
         `- announced                        withdrawn first on drain
"""

from __future__ import annotations

import time
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

from logic_server.logic import Logic, LogicStatistics, make_logic
from logic_server.rpc import SERVICE, LinkOptions, LogicService
from logic_server.settings import LogicSettings, Nsq
from runtime.admin import Readiness, open_admin
from runtime.discovery.choice import open_discovery
from runtime.lifecycle import Drain
from runtime.metrics import Metrics
from runtime.queue.nsq import NsqOptions, NsqProducer, NsqQueue, options_from
from runtime.rpc.health import serve_with_health
from runtime.rpc.tls import serving_tls
from runtime.tokens import token_authority

CLOSING_S: Final = 1.0
"""Of the drain, kept for closing what is left after the links, or a quarter of it if less."""
READINESS_INTERVAL_S: Final = 0.5
QUEUE: Final = "queue"
LISTENING: Final = "listening"


async def serve(
    settings: LogicSettings,
    drain: Drain,
    log: FilteringBoundLogger,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `drain` has begun and what conn servers had asked is answered.

    Args:
        settings: all of them.
        drain: begins the stop, and has its deadline.
        log: for what an operator should know.
        task_status: gets the address where gRPC is served, once it is announced.

    Raises:
        runtime.failures.SetupError, OSError: what is to be mended in the settings; maybe in a group.
    """
    tokens = token_authority(settings.token, log)
    tls, queue = serving_tls(settings.tls), NsqQueue(nsq_options(settings.nsq))
    registration = settings.registration
    admin_address = settings.admin.address(registration.listen_address)
    async with (
        open_admin(admin_address, Readiness(LISTENING, QUEUE), log) as admin,
        open_discovery(settings.etcd, {}, log, ttl_s=registration.ttl_s) as discovery,
        queue.open_producer() as producer,
        trio.open_nursery() as watches,
    ):
        metrics, readiness = admin.metrics, admin.readiness
        logic = make_logic(settings, tokens, producer, unix_now=time.time)
        service = LogicService(logic, LinkOptions(store_s=settings.nsq.publish_timeout_s))
        register(metrics, logic, service, producer)
        metrics.register("discovery", discovery.statistics, gauges=("announced", "peers", "missing"))
        watches.start_soon(watch_readiness, producer, readiness)
        async with trio.open_nursery() as links:
            server = await links.start(serve_with_health, service, SERVICE, registration.listen_address, tls)
            metrics.register("rpc", server.statistics, gauges=("in_flight", "connections"))
            address = registration.advertised(server.addresses[0])
            async with discovery.announce(registration.service_name, address):
                readiness.meet(LISTENING)
                log.info("serving", grpc=server.addresses, admin=admin.address)
                task_status.started(server.addresses[0])
                await drain.draining.wait()
                readiness.fail("drain", "draining")
            server.drain(max(0.0, drain.remaining_s() - min(CLOSING_S, drain.timeout_s / 4)))
        watches.cancel_scope.cancel()


def nsq_options(nsq: Nsq) -> NsqOptions:
    """Return how to reach and treat nsqd.

    Raises:
        SetupError: a certificate, key or authority cannot be read.
    """
    # Nothing is being stored any more when the links have ended.
    return options_from(nsq, publish_deadline_s=nsq.publish_timeout_s, drain_deadline_s=0.5)


def register(metrics: Metrics, logic: Logic, service: LogicService, producer: NsqProducer) -> None:
    """Show the numbers of the parts."""
    metrics.register("logic", logic.statistics, gauges=LogicStatistics.GAUGES)
    metrics.register("link", service.statistics, gauges=("links", "unanswered"))
    metrics.register("producer", producer.statistics, gauges=("connections", "waiting_bytes"))


async def watch_readiness(producer: NsqProducer, readiness: Readiness) -> None:
    """Say for ever whether the queue can be reached."""
    while True:
        if producer.statistics().connections:
            readiness.meet(QUEUE)
        else:
            readiness.fail(QUEUE, "not connected to any nsqd")
        await trio.sleep(READINESS_INTERVAL_S)
