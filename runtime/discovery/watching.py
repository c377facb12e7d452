"""Follow the servers of one service: list, then watch from there on; on any loss list again."""

from __future__ import annotations

from typing import Final, NoReturn

import trio
from structlog.typing import FilteringBoundLogger

from runtime.discovery.answers import EtcdError
from runtime.discovery.entries import service_prefix
from runtime.discovery.gateway import Gateway, backoff_s
from runtime.discovery.known import KnownPeers
from runtime.discovery.tally import Tally

_LONGEST_PAUSE_S: Final = 2.0
# A watch that has lived for so long has not failed: the next list may come at once.
_LIVED_S: Final = 1.0


class EtcdPeers:
    """A `runtime.discovery.Peers`.  Its owner runs `run`.

    Attributes:
        listed: set when there was a first list.
    """

    def __init__(
        self, gateway: Gateway, service: str, *, grace_s: float, log: FilteringBoundLogger, tally: Tally
    ) -> None:
        self.listed = trio.Event()
        self._gateway = gateway
        self._prefix = service_prefix(service)
        self._known = KnownPeers(self._prefix, grace_s=grace_s, skipped=tally.skipped)
        self._log = log.bind(service_name=service)
        self._tally = tally
        self._waiting = trio.lowlevel.ParkingLot()
        self._alarm = trio.CancelScope()
        self._told: frozenset[str] = frozenset()
        self._is_heard = True  # one line when etcd is gone, one when it is back

    @property
    def addresses(self) -> frozenset[str]:
        return self._known.addresses

    @property
    def missing(self) -> int:
        """How many are kept although etcd does not list them."""
        return self._known.missing

    async def wait_changed(self, seen: frozenset[str]) -> frozenset[str]:
        """Wait until the addresses are not `seen`, and return them.  Cancellation loses nothing."""
        await trio.lowlevel.checkpoint()
        while self._known.addresses == seen:
            await self._waiting.park()
        return self._known.addresses

    async def run(self) -> NoReturn:
        """Follow until cancelled.  What fails is counted and tried again; the last known servers stay."""
        failures = 0
        while True:
            began = trio.current_time()
            try:
                await self._list_and_watch()
            except EtcdError:
                has_lived = self._is_heard and trio.current_time() - began >= _LIVED_S
                failures = 0 if has_lived else failures + 1
            await trio.sleep(backoff_s(failures, _LONGEST_PAUSE_S))

    async def run_clock(self) -> NoReturn:
        """Drop missing servers when they are due, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._known.due) as self._alarm:
                await trio.sleep_forever()
            self._known.drop_due(trio.current_time())
            self._tell()

    async def _list_and_watch(self) -> NoReturn:
        try:
            revision, entries = await self._gateway.list_prefix(self._prefix)
        except EtcdError as exc:
            self._fall_silent(exc)
            raise
        self._known.listed(entries, trio.current_time())
        self._tally.lists += 1
        self._tell()
        if not self._is_heard:
            self._log.info("etcd answers again", missing=self._known.missing)
        self._is_heard = True
        self.listed.set()
        async with self._gateway.open_watch(self._prefix, revision) as watch:
            while True:
                changes = await watch.receive()
                self._known.changed(changes)
                self._tally.changes += len(changes)
                self._tell()

    def _fall_silent(self, failure: EtcdError) -> None:
        self._known.silent(trio.current_time())
        self._alarm.deadline = self._known.due
        if self._is_heard:
            self._log.warning(
                "etcd does not answer: known servers stay known", reason=failure.reason, problem=str(failure)
            )
        self._is_heard = False

    def _tell(self) -> None:
        """Let others see what has changed."""
        self._alarm.deadline = self._known.due
        now, before = self._known.addresses, self._told
        if now != before:
            self._told = now
            self._log.info("servers have changed", came=sorted(now - before), left=sorted(before - now))
            self._waiting.unpark_all()
