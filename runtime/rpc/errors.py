"""What can go wrong with a call, as one exception with few meanings.

grpclib, h2, ssl and the socket each have errors of their own, and which of them a caller meets when a call
races a stop or a deadline is chance.  Both ends turn all of them into `RpcError`:

==================  ==========================================================================
UNAVAILABLE         nobody could be asked, or the connection, the stream or the server ended
DEADLINE_EXCEEDED   too late, whichever side noticed first
CANCELLED           the other side gave the call up
RESOURCE_EXHAUSTED  a message over the receive limit, or too many of something
UNIMPLEMENTED       the peer has no such method (a Go peer: fall back)
UNKNOWN             the handler failed, or refused in the Go system's manner
==================  ==========================================================================

Any other status is what the peer's handler has raised.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from runtime.failures import leaves

__all__ = [
    "RpcError",
    "Status",
    "deadline_exceeded",
    "reset_error",
    "rpc_error",
    "status_within",
    "unavailable",
]

_STATUS_OF_RESET: Final = MappingProxyType(
    {
        ErrorCodes.CANCEL: Status.CANCELLED,
        ErrorCodes.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
        ErrorCodes.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
        ErrorCodes.PROTOCOL_ERROR: Status.INTERNAL,
        ErrorCodes.INTERNAL_ERROR: Status.INTERNAL,
        ErrorCodes.FLOW_CONTROL_ERROR: Status.INTERNAL,
        ErrorCodes.FRAME_SIZE_ERROR: Status.INTERNAL,
        ErrorCodes.COMPRESSION_ERROR: Status.INTERNAL,
    }
)


class RpcError(GRPCError):
    """A call that did not end with OK.

    Callers catch it; handlers raise it, and the caller gets the same status and text.

    Attributes:
        status: what kind of failure.
        text: for people; what the peer has said where it said something.
    """

    def __init__(self, status: Status, text: str = "") -> None:
        super().__init__(status, text)
        self.text = text

    def __str__(self) -> str:
        return f"{self.status.name}: {self.text}" if self.text else self.status.name

    def again(self) -> RpcError:
        """Return an equal error: one instance raised in several tasks would mix their tracebacks."""
        return RpcError(self.status, self.text)


def rpc_error(error: GRPCError) -> RpcError:
    """Return `error` as an `RpcError`."""
    return error if isinstance(error, RpcError) else RpcError(error.status, error.message or "")


def unavailable(text: str) -> RpcError:
    """Return the error of a call that found nobody, or lost the peer on its way."""
    return RpcError(Status.UNAVAILABLE, text)


def deadline_exceeded() -> RpcError:
    """Return the error of a call that came too late."""
    return RpcError(Status.DEADLINE_EXCEEDED, "deadline exceeded")


def reset_error(code: ErrorCodes | int | None, *, late: bool) -> RpcError:
    """Return what a RST_STREAM with `code` means; `late`: the call's deadline has passed meanwhile.

    A server that enforces deadlines (C-core) resets with CANCEL, a little before our own clock says so.
    """
    if code == ErrorCodes.CANCEL and late:
        return deadline_exceeded()
    try:
        name = ErrorCodes(code or 0)
    except ValueError:
        return unavailable(f"stream reset by the peer: code {code}")
    return RpcError(_STATUS_OF_RESET.get(name, Status.UNAVAILABLE), f"stream reset by the peer: {name.name}")


def status_within(error: BaseException) -> RpcError | None:
    """Return the status that a handler meant, though a nursery has wrapped it in groups.

    None if there is anything else than gRPC errors in it: a bug must not hide behind a status.
    """
    parts = list(leaves(error))
    first = parts[0]
    if isinstance(first, GRPCError) and all(isinstance(part, GRPCError) for part in parts):
        return rpc_error(first)
    return None
