"""`/livez`, `/readyz` and `/metrics` on a port of their own, by default on loopback (operations.md, Health).

    /livez     200 as long as the loop runs
    /readyz    200 when every condition is met, else 503; JSON {"ready": …, "reasons": {condition: why}}
    /metrics   Prometheus text

Every wait has a deadline: for a request's head, for its answer, for a write, and for a connection as a whole.
"""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from quart import Response
from quart_trio import QuartTrio
from structlog.typing import FilteringBoundLogger

from runtime.failures import setting_up
from runtime.http import HastyStream, HttpConnection, Stages, http_config
from runtime.metrics import CONTENT_TYPE, LoopLag, Metrics, watch_loop_lag
from runtime.units import Address, format_address

MAX_CONNECTIONS: Final = 32
MAX_HEAD_BYTES: Final = 16 * 1024
WRITE_TIMEOUT_S: Final = 5.0
STAGES: Final = Stages(head_s=30.0, idle_s=30.0, request_s=30.0)
CONNECTION_LIFETIME_S: Final = 600.0


class Readiness:
    """The named conditions under which a service takes work.  Owned by the composition root.

    Args:
        conditions: their names; none is met at first.
    """

    def __init__(self, *conditions: str) -> None:
        self._reasons = dict.fromkeys(conditions, "not yet")

    @property
    def is_ready(self) -> bool:
        """Whether every condition is met."""
        return not self._reasons

    @property
    def reasons(self) -> dict[str, str]:
        """Condition -> why it is not met."""
        return dict(self._reasons)

    def meet(self, condition: str) -> None:
        """Say that `condition` is met."""
        self._reasons.pop(condition, None)

    def fail(self, condition: str, reason: str) -> None:
        """Say that `condition` is not met, and why; it need not have been named before."""
        self._reasons[condition] = reason


@dataclass(frozen=True, slots=True)
class AdminStatistics:
    """Connections to the admin port: open now, taken, turned away at the limit, and failed by reason."""

    open: int
    taken: int
    refused: int
    failures: dict[str, int]


def make_app(readiness: Readiness, metrics: Metrics) -> QuartTrio:
    """Return the three pages."""
    app = QuartTrio("admin", static_folder=None)

    @app.get("/livez")
    async def livez() -> Response:
        return Response("ok\n", content_type="text/plain; charset=utf-8")

    @app.get("/readyz")
    async def readyz() -> Response:
        body = json.dumps({"ready": readiness.is_ready, "reasons": readiness.reasons}, ensure_ascii=False)
        return Response(body, status=200 if readiness.is_ready else 503, content_type="application/json")

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    return app


@dataclass(frozen=True, slots=True)
class AdminPort:
    """What a composition root says about itself, and where it can be read: "host:port"."""

    address: str
    readiness: Readiness
    metrics: Metrics


@asynccontextmanager
async def open_admin(
    address: Address, readiness: Readiness, log: FilteringBoundLogger
) -> AsyncIterator[AdminPort]:
    """Serve the three pages, and watch how late the loop is, until the context is left: open it first.

    Args:
        address: as `runtime.sections.Admin.address` gives it.
        readiness: with the conditions under which the process is ready.
        log: see `serve_admin`.

    Raises:
        SetupError: no port can be had.
    """
    metrics, lag = Metrics(), LoopLag()
    metrics.register("loop_lag", lag.statistics, gauges=LoopLag.GAUGES)
    async with trio.open_nursery() as nursery:
        with setting_up(f"admin port {format_address(*address)}"):
            bound = await nursery.start(serve_admin, address, readiness, metrics, log)
        nursery.start_soon(watch_loop_lag, lag)
        yield AdminPort(bound, readiness, metrics)
        nursery.cancel_scope.cancel()


async def serve_admin(
    address: Address,
    readiness: Readiness,
    metrics: Metrics,
    log: FilteringBoundLogger,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; connections are then closed at once.

    A port that is taken already is warned about and replaced by an ephemeral one: several services on
    one host must not keep each other from starting.

    Args:
        address: as `runtime.sections.Admin.address` gives it.
        readiness: shown by `/readyz`.
        metrics: shown by `/metrics`.
        log: for that warning, and for connections that failed.
        task_status: gets the bound address, "host:port".

    Raises:
        OSError: neither port could be bound.
    """
    listeners = await _listen(address, log)
    host, port, *_ = listeners[0].socket.getsockname()
    server = _AdminServer(make_app(readiness, metrics), log)
    unregister = metrics.register("admin_connections", server.statistics, gauges=("open",))
    task_status.started(format_address(host, port))
    try:
        await trio.serve_listeners(server.handle, listeners)
    finally:
        unregister()


async def _listen(address: Address, log: FilteringBoundLogger) -> list[trio.SocketListener]:
    host = address.host or None
    if address.port:
        try:
            return await trio.open_tcp_listeners(address.port, host=host)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
        log.warning("admin port is taken, using a free one", address=format_address(*address))
    first, *others = await trio.open_tcp_listeners(0, host=host)
    for other in others:  # each family would get another port, and only one can be told
        await other.aclose()
    return [first]


class _AdminServer:
    """Serves connections with hypercorn; one connection's failure stays its own."""

    def __init__(self, app: QuartTrio, log: FilteringBoundLogger) -> None:
        self._app = ASGIWrapper(app)
        self._config = http_config(MAX_HEAD_BYTES)
        self._log = log
        self._open = self._taken = self._refused = 0
        self._failures: dict[str, int] = {}

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends, keeps us waiting for 30 s, or is 10 min old."""
        self._taken += 1
        if self._open >= MAX_CONNECTIONS:
            self._refused += 1
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        try:
            with trio.move_on_after(CONNECTION_LIFETIME_S):
                hasty = HastyStream(stream, WRITE_TIMEOUT_S)
                await HttpConnection(self._app, self._config, hasty, STAGES).run()
        except Exception as exc:
            reason = type(exc).__name__
            self._failures[reason] = self._failures.get(reason, 0) + 1
            self._log.warning("admin connection failed", exc_info=exc)
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    def statistics(self) -> AdminStatistics:
        """Return the counts since the start."""
        return AdminStatistics(self._open, self._taken, self._refused, dict(self._failures))
