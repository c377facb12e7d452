"""The way to one conn server: unary `Conn/BroadcastRoom`, which a Go conn server serves as well."""

from __future__ import annotations

from typing import Final

from runtime.rpc.calls import CallSource
from runtime.rpc.errors import RpcError, Status
from schema.access import Code, Refused, Unavailable
from schema.message import Push
from schema.proto.conn_grpc import ConnStub

FINAL: Final = frozenset(
    {
        Status.UNKNOWN,  # the handler failed, or refused in the Go system's manner
        Status.INVALID_ARGUMENT,
        Status.FAILED_PRECONDITION,
        Status.OUT_OF_RANGE,
        Status.RESOURCE_EXHAUSTED,  # over its receive limit
    }
)
"""Statuses that the same batch would get again.  All others are worth another try."""


class RemoteConn:
    """A `job_worker.delivery.ConnServer` at the other end of a channel.  It owns nothing.

    Args:
        channel: the caller's, who closes it; it connects again by itself.
        timeout_s: of a call; the conn server is told.
    """

    def __init__(self, channel: CallSource, timeout_s: float) -> None:
        self._stub = ConnStub(channel)
        self._timeout_s = timeout_s

    async def broadcast(self, push: Push) -> None:
        """Return once the conn server has taken `push`.  Cancelled, it may or may not have.

        Raises:
            Unavailable: not reached, or no answer in time.
            Refused: it does not take this push.
        """
        try:
            await self._stub.BroadcastRoom(push.to_request(), timeout=self._timeout_s)
        except RpcError as exc:
            if exc.status in FINAL:
                raise Refused(Code.BAD_REQUEST, str(exc)) from exc
            raise Unavailable(str(exc)) from exc
