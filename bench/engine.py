"""What all users of one generator process share: sockets, credentials, counters and the measured time."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from urllib.parse import urlsplit

from bench.frames import Upgrade, masked
from bench.histogram import Histogram
from bench.limits import source_addresses
from bench.outcome import Outcome
from bench.plan import Plan, Target, Window
from bench.poller import Pace, Poller, no_pace
from bench.procstat import waited_ns
from bench.schedule import NS
from bench.stream import Endpoint
from bench.trust import tls_context
from bench.websocket import Receiver, WebSocket
from clients.python.frames import encode_request, encode_sign_in
from schema.envelope import HEARTBEAT, PackageType
from schema.tokens import TokenAuthority


class Engine:
    """One generator's means.  Made by bench/generator.py; `close` closes every socket.

    Attributes:
        counts, problems, spans: what goes into the outcome.
        opening: users that are on their way to being signed in.
        signed_in: users that are.
        is_closed: nobody may connect any more.
        unanswered: requests that no answer has come to yet.
        leaving: users that have said goodbye and wait for the server to close.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.poller = Poller()
        self.counts: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.spans: dict[str, Histogram] = {}
        self.opening = 0
        self.signed_in = 0
        self.leaving = 0
        self.unanswered = 0
        self.random = Random(f"{plan.load.seed}/{plan.process}")
        self.endpoint = endpoint_of(plan.target)
        self._upgrade = upgrade_to(plan.target.url, self.random.randbytes(16))
        self._key = self.random.randbytes(4)
        self._sources = source_addresses(plan.load.source_addresses, self.endpoint.host, plan.load.sockets)
        self._authority = TokenAuthority(plan.target.secret.encode()) if plan.target.secret else None
        self._busy = self._waited = 0.0
        self.is_closed = False
        self.heartbeat_frame = self.frame(HEARTBEAT)

    def span(self, name: str) -> Histogram:
        """Return the histogram of that name."""
        return self.spans.setdefault(name, Histogram())

    def room(self, number: int) -> str:
        """Return the name of a room of this run."""
        return f"bench-{self.plan.run:x}-{number}"

    def source(self, number: int) -> str:
        """Return where user `number` comes from; empty where the system may choose."""
        return self._sources[number % len(self._sources)] if self._sources else ""

    def token(self, number: int) -> str:
        """Return a token for user `number`."""
        if self._authority is not None:
            return self._authority.issue(str(number + 1), time.time())
        tokens = self.plan.target.tokens
        return tokens[number % len(tokens)] if tokens else f"user-{number}"

    def frame(self, payload: bytes) -> bytes:
        """Return a masked frame, to be sent as often as one likes."""
        return masked(payload, self._key)

    def sign_in_frame(self, number: int, room: str) -> bytes:
        """Return the frame with which user `number` signs in."""
        data = encode_sign_in(self.token(number), room, self.plan.target.version)
        return self.frame(encode_request(PackageType.SIGN_IN, data))

    def websocket(self, receiver: Receiver) -> WebSocket:
        """Return a WebSocket that is not connected yet."""
        return WebSocket(self.poller, self.endpoint, self._upgrade, self._key, receiver)

    async def measure(self, pace: Pace, window: Window, is_drained: Callable[[], bool]) -> None:
        """Drive a load through ramp, measured time and drain; note how busy this process was.

        Args:
            pace: sends what is due.
            is_drained: whether no answer is missing any more.
        """
        await self.poller.drive(pace, window.open_ns)
        cpu_ns, without_ns, began = time.process_time_ns(), waited_ns(), time.monotonic_ns()
        await self.poller.drive(pace, window.end_ns)
        lasted = max(1, time.monotonic_ns() - began)
        self._busy = (time.process_time_ns() - cpu_ns) / lasted
        self._waited = (waited_ns() - without_ns) / lasted
        await self.drain(is_drained)

    def is_answered(self) -> bool:
        """Whether no request waits for its answer."""
        return not self.unanswered

    async def drain(self, is_drained: Callable[[], bool]) -> None:
        """Send nothing any more, and take what is still coming, for `drain_s` at most."""
        until = time.monotonic_ns() + int(self.plan.load.drain_s * NS)
        await self.poller.drive(no_pace, until, is_drained)

    def outcome(self) -> Outcome:
        """Return what was seen so far."""
        spans = {name: histogram.recorded() for name, histogram in self.spans.items()}
        return Outcome(dict(self.counts), dict(self.problems), spans, self._busy, self._waited)

    def close(self) -> None:
        """Close every socket; what ends now is not a problem any more."""
        self.is_closed = True
        seen = self.problems
        self.problems = Counter()
        self.poller.close()
        self.problems = seen


def endpoint_of(target: Target) -> Endpoint:
    """Resolve the address of `target`.

    Raises:
        ValueError: not a ws:// or wss:// address.
        OSError: the name does not resolve.
    """
    parts = urlsplit(target.url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{target.url}: not a ws:// or wss:// address")
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    family, _, _, _, address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0]
    tls = None
    if parts.scheme == "wss":
        tls = tls_context(target.ca_file, is_checked=not target.insecure)
    return Endpoint(str(address[0]), port, family, tls, parts.hostname)


def upgrade_to(url: str, nonce: bytes) -> Upgrade:
    """Return the upgrade request for `url`."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Upgrade.to(parts.netloc.rpartition("@")[2], target, nonce)
