"""grpc.health.v1: who asks (load balancers, `grpc_health_probe`) learns whether a service takes calls."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio
from grpclib.health.v1.health_grpc import HealthBase
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from runtime.failures import setting_up
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.handling import stopping_of
from runtime.rpc.server import RpcServer, Service, open_listeners, serve_rpc

if TYPE_CHECKING:
    from grpclib.server import Stream

OVERALL = ""


class Health(HealthBase):
    """The health service of one server.

    A service is SERVING or NOT_SERVING as `set_serving` said last, and NOT_SERVING once the server drains;
    the name "" stands for all of them together.

    Args:
        services: full names ("logic.Logic"), serving from the start.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._serving = dict.fromkeys(services, True)
        self._changed = trio.lowlevel.ParkingLot()

    def set_serving(self, service: str, *, serving: bool) -> None:
        """Say whether `service` takes calls, and tell all who watch it.

        Raises:
            KeyError: it is none of the services.
        """
        if self._serving[service] != serving:
            self._serving[service] = serving
            self._changed.unpark_all()

    async def Check(self, stream: Stream[HealthCheckRequest, HealthCheckResponse]) -> None:  # noqa: N802
        """Answer the state of one service; NOT_FOUND for an unknown one."""
        request = await stream.recv_message()
        status = self._status(request, draining=stopping_of(stream).is_set())
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise RpcError(Status.NOT_FOUND, "no such service")
        await stream.send_message(HealthCheckResponse(status=status))

    async def Watch(self, stream: Stream[HealthCheckRequest, HealthCheckResponse]) -> None:  # noqa: N802
        """Send the state of one service now and at each change, until the server drains."""
        request = await stream.recv_message()
        stopping = stopping_of(stream)
        sent = None
        while True:
            status = self._status(request, draining=stopping.is_set())
            if status != sent:
                await stream.send_message(HealthCheckResponse(status=status))
                sent = status
            elif stopping.is_set():
                return
            else:
                await self._wait_change(stopping)

    def _status(
        self, request: HealthCheckRequest | None, *, draining: bool
    ) -> HealthCheckResponse.ServingStatus.ValueType:
        service = request.service if request is not None else OVERALL
        if service != OVERALL and service not in self._serving:
            return HealthCheckResponse.SERVICE_UNKNOWN
        serving = all(self._serving.values()) if service == OVERALL else self._serving[service]
        return HealthCheckResponse.SERVING if serving and not draining else HealthCheckResponse.NOT_SERVING

    async def _wait_change(self, stopping: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wake_at, stopping)
            await self._changed.park()
            nursery.cancel_scope.cancel()

    async def _wake_at(self, stopping: trio.Event) -> None:
        await stopping.wait()
        self._changed.unpark_all()


async def serve_with_health(
    service: Service,
    name: str,
    address: str,
    tls: ssl.SSLContext | None,
    *,
    task_status: trio.TaskStatus[RpcServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one service and its health until drained; see `serve_rpc`.

    Args:
        service: an instance of a generated base.
        name: its full name ("logic.Logic").
        address: where to listen.
        tls: the server's context; None: cleartext.
        task_status: gets the server once it listens.

    Raises:
        SetupError: the port cannot be had.
    """
    with setting_up(f"gRPC port {address}"):
        listeners = await open_listeners(address)
    await serve_rpc([service, Health([name])], listeners, tls=tls, task_status=task_status)
