"""Keep one server announced: its key under a lease that is renewed, whatever etcd goes through.

1. The lease is renewed every third of its time.  When etcd does not know it any more (wiped, or not heard
   for too long), there is a new one, and the key is put at once.
2. With each renewal the key is put again if it is missing: somebody has deleted it.
3. Withdrawing revokes the lease, which deletes the key with it; a key that another process has put since
   under a lease of its own stays.
"""

from __future__ import annotations

from math import ceil, inf
from typing import Final, NoReturn

import trio
from structlog.typing import FilteringBoundLogger

from runtime.discovery.answers import EtcdError
from runtime.discovery.entries import entry
from runtime.discovery.gateway import Gateway, backoff_s
from runtime.discovery.tally import Tally

_RENEWALS: Final = 3
_WITHDRAW_S: Final = 2.0


class Announcement:
    """One server that is announced.  Its owner runs `run`, and `withdraw` after that.

    Attributes:
        announced: set when it was announced for the first time.
    """

    def __init__(
        self,
        gateway: Gateway,
        service: str,
        address: str,
        *,
        ttl_s: float,
        log: FilteringBoundLogger,
        tally: Tally,
    ) -> None:
        self.announced = trio.Event()
        self._gateway = gateway
        self._key, self._value = entry(service, address)
        self._ttl = max(1, ceil(ttl_s))
        self._log = log.bind(service_name=service, address=address)
        self._tally = tally
        self._lease = 0
        self._lease_s = float(self._ttl)
        self._is_put = False
        self._renewed = -inf

    @property
    def is_announced(self) -> bool:
        """Whether the key is there, as far as we know: its lease has not run out yet."""
        return self._is_put and trio.current_time() < self._renewed + self._lease_s

    async def run(self) -> NoReturn:
        """Announce, and keep announced, until cancelled.

        What fails is counted, logged once until it succeeds again, and tried again after a pause of up to
        the time between two renewals.
        """
        failures = 0
        while True:
            try:
                await self._renew()
            except EtcdError as exc:
                if not failures:
                    self._log.warning("not announced for now", reason=exc.reason, problem=str(exc))
                pause_s = backoff_s(failures, self._lease_s / _RENEWALS)
                failures += 1
            else:
                if failures or not self.announced.is_set():
                    self._log.info("announced", ttl_s=self._lease_s)
                self.announced.set()
                failures = 0
                pause_s = self._lease_s / _RENEWALS
            await trio.sleep(pause_s)

    async def _renew(self) -> None:
        asked = trio.current_time()
        if self._lease and not await self._gateway.keep_alive(self._lease):
            self._log.warning("etcd has forgotten us: announcing anew")
            self._lease = 0
        if not self._lease:
            self._is_put = False
            self._lease, self._lease_s = await self._gateway.grant(self._ttl)
        if not self._is_put:
            # Over whatever is there: it belongs to a predecessor that has not been missed yet.
            await self._gateway.put(self._key, self._value, self._lease)
            self._is_put = True
            self._tally.announcements += 1
        elif await self._gateway.put_if_missing(self._key, self._value, self._lease):
            self._log.warning("the key was gone: put again")
            self._tally.restored += 1
        self._renewed = asked

    async def withdraw(self) -> None:
        """Revoke the lease, even when cancelled; 2 s at most, after that it runs out by itself."""
        if not self._lease:
            return
        problem = f"no answer within {_WITHDRAW_S} s"
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _WITHDRAW_S):
            try:
                await self._gateway.revoke(self._lease)
            except EtcdError as exc:
                problem = str(exc)
            else:
                self._is_put = False
                self._log.info("withdrawn")
                return
        self._log.warning("not withdrawn: it ends with its lease", problem=problem, ttl_s=self._lease_s)
