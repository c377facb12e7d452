"""Which servers there are: announce oneself, and know the others.

Two ways, chosen by the settings in choice.py: `static` (lists that never change) and `etcd` (the Go system's
keys).  A composition root calls `runtime.discovery.choice.open_discovery`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Peers(Protocol):
    """The servers of one service as they are known now.  Owned by whoever opened the watch."""

    @property
    def addresses(self) -> frozenset[str]:
        """Their addresses, "host:port"; the last known ones while nobody can be asked."""

    async def wait_changed(self, seen: frozenset[str]) -> frozenset[str]:
        """Wait until the addresses are not `seen`, and return them.  Cancellation loses nothing."""


class Discovery(Protocol):
    """What a composition root announces itself with and finds the others by."""

    def announce(self, service: str, address: str) -> AbstractAsyncContextManager[None]:
        """Tell others about `address`, from the entry of the context until its exit.

        Entering returns once it has been announced, or, where nobody can be told yet, at a deadline;
        it is then announced as soon as it can be.  The exit waits, up to a deadline, until it is withdrawn.
        Open it after listening; leave it before the sockets are closed.
        """

    def watch(self, service: str) -> AbstractAsyncContextManager[Peers]:
        """Know the servers of `service`.

        Entering returns once a first list is known, or, where nobody can be asked yet, at a deadline with
        none.
        """
