"""The two ways in which grpclib's state machines wait, on Trio: a flag and a scope per call.

They take the places of `asyncio.Event` and of `grpclib.utils.Wrapper` / `DeadlineWrapper`.
"""

from __future__ import annotations

import math
from types import TracebackType

import trio
from grpclib.exceptions import GRPCError
from grpclib.metadata import Deadline
from grpclib.utils import Wrapper

from runtime.rpc.errors import RpcError, deadline_exceeded, rpc_error, unavailable


class Flag:
    """An event that can be taken back.  Waiting for one that is set is no checkpoint.

    A waiter that was woken may find the flag cleared again: look again before acting on it.
    """

    __slots__ = ("_lot", "_set")

    def __init__(self, *, up: bool = False) -> None:
        self._set = up
        self._lot = trio.lowlevel.ParkingLot()

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Wake everybody who waits."""
        self._set = True
        if self._lot:
            self._lot.unpark_all()

    def clear(self) -> None:
        self._set = False

    async def wait(self) -> None:
        """Wait until it is set, if it is not.  Cancellation changes nothing."""
        if not self._set:
            await self._lot.park()


class CallScope(Wrapper):
    """The one place where a call's waits end: its deadline, the peer's reset, the loss of the connection.

    A call enters it around each wait, from as many tasks as it likes (but each task once at a time), and
    leaves it with an `RpcError` if the call is over.  A cancellation from outside passes through.

    Attributes:
        error: why the call is over; None while it is not.
        deadline_at: when it is over at the latest, on Trio's clock.
    """

    def __init__(self, deadline: Deadline | None = None) -> None:
        # Not the base's: it would count asyncio's tasks.
        self.error: RpcError | None = None
        self.deadline_at = math.inf
        if deadline is not None:
            self.deadline_at = trio.current_time() + deadline.time_remaining()
        self._scopes: dict[trio.lowlevel.Task, trio.CancelScope] = {}

    def check(self) -> None:
        """Raise the error of a call that is over; for paths that do not wait.

        Raises:
            RpcError: the call is over.
        """
        if self.deadline_at != math.inf and self.error is None and trio.current_time() >= self.deadline_at:
            self.error = deadline_exceeded()
        if self.error is not None:
            raise self.error.again()

    def __enter__(self) -> None:
        if self.error is not None:
            raise self.error.again()
        scope = trio.CancelScope(deadline=self.deadline_at)
        scope.__enter__()
        self._scopes[trio.lowlevel.current_task()] = scope

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = self._scopes.pop(trio.lowlevel.current_task())
        # Takes our own cancellation away; raises what is left of a group that also held something else.
        scope.__exit__(kind, raised, traceback)
        if scope.cancelled_caught and self.error is None:
            self.error = deadline_exceeded()
        if self.error is not None and (raised is None or scope.cancelled_caught):
            raise self.error.again()
        if isinstance(raised, GRPCError) and not isinstance(raised, RpcError):
            raise rpc_error(raised) from raised

    def cancel(self, error: Exception) -> None:
        """End the call with `error`; the first one counts."""
        if self.error is None:
            self.error = error if isinstance(error, RpcError) else unavailable(str(error))
        for scope in self._scopes.values():
            scope.cancel()
