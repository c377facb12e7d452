"""A conn server as a process: what it runs, in which order it starts and stops.

serve
 |- admin port, loop lag                    outlive everything else
 `- discovery, links to logic servers       outlive the sockets
     |- gRPC server                         job workers push until the last client is gone
     |- port.run (port.py)                  poller, clients, HTTP
     `- announced                           withdrawn first on drain; then nothing is accepted any more,
                                            and clients are sent away in steps
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

from conn_server.admission import Admission
from conn_server.client import Logic, Node
from conn_server.connection import Connection, Limits, Wire
from conn_server.http.front import HttpFront
from conn_server.http.posting import Posting
from conn_server.http.routes import HttpRoutes
from conn_server.links import LogicLinks, LogicOptions
from conn_server.origin import Origin
from conn_server.poller import Poller
from conn_server.port import ClientPort
from conn_server.rooms import Rooms
from conn_server.rpc import SERVICE, ConnService, open_logic
from conn_server.session import Refusals, Rules
from conn_server.settings import ConnSettings, WebSocket, connection_limit
from conn_server.sockets import open_sockets, raise_fd_limit
from conn_server.tokens import LocalTokens
from runtime.admin import Readiness, open_admin
from runtime.discovery.choice import open_discovery
from runtime.lifecycle import Drain
from runtime.metrics import Metrics
from runtime.rpc.health import serve_with_health
from runtime.rpc.tls import dialing_tls, serving_tls
from runtime.tokens import token_authority
from runtime.units import format_address
from schema.tokens import TokenAuthority

LOGIC: Final = "logic servers"
CLIENTS: Final = "client port"
LAST_CALLS_S: Final = 0.5
"""For job workers' calls under way when no client is left that they could be for."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a conn server is: "host:port" each; `tls` says what the client port speaks."""

    clients: str
    rpc: str
    admin: str
    tls: bool


async def serve(
    settings: ConnSettings,
    drain: Drain,
    log: FilteringBoundLogger,
    *,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `drain` has begun and the clients are gone, at its deadline at the latest.

    Args:
        settings: all of them.
        drain: begins the stop, and has its deadline.
        log: for what an operator should know.
        task_status: gets the addresses, once clients can come.

    Raises:
        runtime.failures.SetupError, OSError: what is to be mended in the settings; maybe in a group.
    """
    registration, rpc = settings.registration, settings.rpc
    tokens = token_authority(settings.token, log) if settings.token.needs_key else None
    tls, logic = serving_tls(settings.tls), logic_options(settings)
    admin_address = settings.admin.address(registration.listen_address)
    static = {rpc.logic_service: rpc.logic}
    async with (
        open_admin(admin_address, Readiness(CLIENTS, LOGIC), log) as admin,
        open_discovery(settings.etcd, static, log, ttl_s=registration.ttl_s) as discovery,
        discovery.watch(rpc.logic_service) as peers,
        open_logic(peers, logic) as links,
        trio.open_nursery() as serving,
    ):
        metrics, readiness = admin.metrics, admin.readiness
        metrics.register("discovery", discovery.statistics, gauges=("announced", "peers", "missing"))
        metrics.register("logic", links.statistics, gauges=LogicLinks.GAUGES)
        port = make_port(settings, links, tokens, metrics, log)
        service = ConnService(port.broadcaster)
        metrics.register("pushes", service.statistics, gauges=("streams",))
        serving.start_soon(watch_links, links, readiness)
        async with trio.open_nursery() as pushes:
            server = await pushes.start(serve_with_health, service, SERVICE, registration.listen_address, tls)
            metrics.register("rpc", server.statistics, gauges=("in_flight", "connections"))
            async with trio.open_nursery() as clients:
                sockets = open_sockets(settings.websocket)
                address = format_address(*sockets[0].getsockname()[:2])
                await clients.start(port.run, sockets, metrics)
                advertised = registration.advertised(server.addresses[0])
                async with discovery.announce(registration.service_name, advertised):
                    readiness.meet(CLIENTS)
                    log.info("serving", clients=address, grpc=server.addresses, admin=admin.address)
                    is_tls = bool(settings.websocket.tls_cert)
                    task_status.started(Serving(address, server.addresses[0], admin.address, is_tls))
                    await drain.draining.wait()
                    readiness.fail("drain", "draining")
                port.drain(drain.deadline)
            server.drain(min(LAST_CALLS_S, drain.remaining_s()))
            pushes.cancel_scope.deadline = trio.current_time() + 2 * LAST_CALLS_S
        serving.cancel_scope.cancel()


def make_port(
    settings: ConnSettings,
    logic: Logic,
    tokens: TokenAuthority | None,
    metrics: Metrics,
    log: FilteringBoundLogger,
) -> ClientPort:
    """Put the client port together from its parts.

    Args:
        settings: all of them.
        logic: checks tokens and takes messages.
        tokens: the key, where `/tk` is open or tokens are checked here.
        metrics: gets the numbers of HTTP; the rest is registered when the port runs.
        log: of the service.
    """
    websocket = settings.websocket
    limit, warning = connection_limit(settings.bucket.max_connections, raise_fd_limit())
    if warning is not None:
        log.warning(warning)
    check = None
    if tokens is not None and settings.token.verify == "local":
        logic = local = LocalTokens(tokens, logic, settings.rules.join, time.time)
        check = local.check
        metrics.register("tokens", tokens.statistics)
    origin = Origin(secrets.randbits(64) or 1, time.time)
    wire = Wire(Poller(log), connection_limits(websocket), log)
    rooms: Rooms[Connection] = Rooms(settings.bucket.rooms)
    node = Node(
        logic=logic,
        rooms=rooms,
        admission=Admission(limit, websocket.per_address),
        origin=origin,
        rules=session_rules(settings),
        refusals=Refusals(),
        unix_now=time.time,
        check=check,
    )
    posting = Posting(logic, origin, settings.http, websocket.max_data_bytes)
    issuer = tokens if settings.token.issue else None
    routes = HttpRoutes(
        posting,
        settings.http,
        websocket_path=websocket.path,
        issue=None if issuer is None else lambda uid: issuer.issue(uid, time.time()),
        demo=demo_folder() if settings.http.demo else None,
        log=log,
    )
    http = HttpFront(routes.app, settings.http, websocket, log)
    metrics.register("posting", posting.statistics, gauges=("replays_running", "replays_remembered"))
    metrics.register("http_routes", routes.statistics)
    metrics.register("http", http.statistics, gauges=("open",))
    return ClientPort(websocket, settings.drain, wire, node, http, log)


def connection_limits(websocket: WebSocket) -> Limits:
    """Return the limits of one connection."""
    return Limits(
        max_frame_bytes=websocket.max_frame_bytes,
        max_message_bytes=websocket.max_message_bytes,
        outbox_soft_bytes=websocket.outbox_soft_bytes,
        outbox_hard_bytes=websocket.outbox_hard_bytes,
        stall_timeout_s=websocket.stall_timeout_s,
        close_timeout_s=websocket.close_timeout_s,
    )


def session_rules(settings: ConnSettings) -> Rules:
    """Return the limits of one session."""
    websocket, rules = settings.websocket, settings.rules
    return Rules(
        sign_in_timeout_s=websocket.sign_in_timeout_s,
        heartbeat_timeout_s=(websocket.heartbeat_timeout_s, websocket.heartbeat_timeout_v1_s),
        max_data_bytes=websocket.max_data_bytes,
        post_anywhere=rules.post_anywhere,
        publish_interval_s=1 / rules.publish_rate if rules.publish_rate else 0.0,
        publish_burst=rules.publish_burst,
    )


def demo_folder() -> Path:
    """Return the folder of the demo page: data of the clients' package, of which no code is used here."""
    package = find_spec("clients")
    if package is None or package.origin is None:
        raise FileNotFoundError("clients/js: the demo page is not installed")
    return Path(package.origin).parent / "js"


def logic_options(settings: ConnSettings) -> LogicOptions:
    """Return how logic servers are reached.

    Raises:
        SetupError: a certificate, key or authority cannot be read.
    """
    return LogicOptions(
        tls=dialing_tls(settings.tls),
        server_name=settings.tls.server_name or None,
        call_s=settings.rpc.request_timeout_s,
        ask_s=settings.rpc.request_timeout_s,
    )


async def watch_links(links: LogicLinks, readiness: Readiness) -> None:
    """Say for ever whether there is a logic server to ask."""
    while True:
        if links.is_open:
            readiness.meet(LOGIC)
        else:
            readiness.fail(LOGIC, "no link to any logic server")
        await links.wait_changed()
