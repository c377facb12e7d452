"""etcd v3 through its JSON gateway: one cluster, several endpoints, a login.  It decides nothing.

1. Each question has a deadline per endpoint.  An endpoint without a usable answer is passed over for the
   next, and each is asked once; the one that answers is asked first from then on.
2. A watch is one JSON object per line and does not end by itself.  Silent for `IDLE_S` it is given up: a
   half-open connection would stay silent for ever.
3. A token is asked for when there is none, and when etcd has forgotten it (restart, five minutes).
"""

from __future__ import annotations

import random
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx2
import msgspec
import trio

from runtime.asking import AnswerTooLarge, open_answer, read_whole
from runtime.discovery.answers import (
    FAILED_PRECONDITION,
    NOT_FOUND,
    OK,
    Answer,
    Authenticated,
    Change,
    EtcdError,
    Granted,
    Kept,
    Listed,
    Transacted,
    decoded,
    refusal,
    watched,
)
from runtime.secret import Secret

IDLE_S: Final = 60.0
# Of one answer, or of one line of a watch: some 50,000 servers.
_MAX_ANSWER_BYTES: Final = 16 << 20
_SHORTEST_PAUSE_S: Final = 0.1

A = TypeVar("A", bound=Answer)


def backoff_s(failures: int, longest_s: float) -> float:
    """Return how long to wait after so many failures in a row: doubled each time, shortened by chance."""
    pause_s = min(longest_s, _SHORTEST_PAUSE_S * 2.0 ** min(failures, 16))
    return pause_s * random.uniform(0.5, 1.0)  # noqa: S311  jitter needs no secrecy


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after all those that begin with `prefix`, whose last byte is not 0xFF."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are for etcd's own authentication."""

    user: str
    password: Secret


class Watch:
    """Changes as they happen.  Owned by the context of `Gateway.open_watch`."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], listed: int) -> None:
        self._pieces = pieces
        self._listed = listed
        self._unread = bytearray()

    async def receive(self) -> list[Change]:
        """Wait for the next changes, one at least.  Once it was cancelled, the watch is over.

        Raises:
            EtcdError: the watch is lost.
        """
        while True:
            changes = watched(await self._line(), self._listed)
            if changes:
                return changes

    async def _line(self) -> bytes:
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            if searched > _MAX_ANSWER_BYTES:
                raise EtcdError("garbage", "a line without an end")
            self._unread += await _next_piece(self._pieces)
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line


class Gateway:
    """The way to one etcd cluster.  `open_gateway` owns it; several tasks may ask at the same time.

    Attributes:
        failures: questions to one endpoint without a usable answer and watches that were lost, by reason.
    """

    def __init__(
        self, client: httpx2.AsyncClient, endpoints: Sequence[str], *, answer_s: float, login: Login | None
    ) -> None:
        self.failures: Counter[str] = Counter()
        self._client = client
        self._endpoints = list(endpoints)  # the one to ask first comes first
        self._answer_s = answer_s
        self._login = login
        self._token: str | None = None  # "" is: none is needed

    async def list_prefix(self, prefix: bytes) -> tuple[int, dict[bytes, bytes]]:
        """Return the revision, and all keys that begin with `prefix` with their values.

        Raises:
            EtcdError: there is no answer; as with all questions.
        """
        listed = await self._ask("kv/range", {"key": prefix, "range_end": prefix_end(prefix)}, Listed)
        return listed.header.revision, {pair.key: pair.value for pair in listed.kvs}

    async def grant(self, ttl: int) -> tuple[int, int]:
        """Return a new lease and its seconds, which may be more than `ttl`."""
        granted = await self._ask("lease/grant", {"TTL": ttl}, Granted)
        return granted.lease, granted.ttl

    async def keep_alive(self, lease: int) -> int:
        """Start the time of `lease` anew; return its seconds, or 0 if there is no such lease."""
        return (await self._ask("lease/keepalive", {"ID": lease}, Kept)).result.ttl

    async def revoke(self, lease: int) -> None:
        """End `lease` and delete its keys; that there is no such lease is no error."""
        try:
            await self._ask("lease/revoke", {"ID": lease}, Answer)
        except EtcdError as exc:
            if exc.code != NOT_FOUND:
                raise

    async def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Set `key` for as long as `lease` lasts, whoever has set it before."""
        await self._ask("kv/put", {"key": key, "value": value, "lease": lease}, Answer)

    async def put_if_missing(self, key: bytes, value: bytes, lease: int) -> bool:
        """Do as `put` does if there is no `key`; return whether there was none."""
        transaction = {
            "compare": [{"key": key, "target": "VERSION", "result": "EQUAL", "version": 0}],
            "success": [{"request_put": {"key": key, "value": value, "lease": lease}}],
        }
        return (await self._ask("kv/txn", transaction, Transacted)).succeeded

    @asynccontextmanager
    async def open_watch(self, prefix: bytes, listed: int) -> AsyncIterator[Watch]:
        """Watch the keys that begin with `prefix`, for changes after the revision `listed`.

        It asks the endpoint that comes first, and no other.

        Raises:
            EtcdError: it is not to be had, or is lost in the body.
        """
        body = {
            "create_request": {"key": prefix, "range_end": prefix_end(prefix), "start_revision": listed + 1}
        }
        await self._log_in()
        endpoint = self._endpoints[0]
        try:
            async with self._exchange(endpoint, "watch", body) as (status, pieces):
                if status != OK:
                    raise refusal(status, await _read(pieces, self._answer_s))
                yield Watch(pieces, listed)
        except EtcdError as exc:
            self._learn(exc, endpoint)
            raise

    async def _ask(self, path: str, body: Mapping[str, Any], answer: type[A]) -> A:
        await self._log_in()
        try:
            return await self._ask_around(path, body, answer)
        except EtcdError as exc:
            if exc.reason != "token" or self._login is None:
                raise
        await self._log_in()
        return await self._ask_around(path, body, answer)

    async def _log_in(self) -> None:
        if self._login is None or self._token is not None:
            return
        body = {"name": self._login.user, "password": self._login.password.reveal().decode(errors="replace")}
        try:
            self._token = (await self._ask_around("auth/authenticate", body, Authenticated)).token
        except EtcdError as exc:
            if exc.code != FAILED_PRECONDITION:
                raise
            self._token = ""  # authentication is off; when it is turned on, etcd will miss the token

    async def _ask_around(self, path: str, body: Mapping[str, Any], answer: type[A]) -> A:
        left = len(self._endpoints)
        while True:
            endpoint = self._endpoints[0]
            left -= 1
            try:
                async with self._exchange(endpoint, path, body) as (status, pieces):
                    content = await _read(pieces, self._answer_s)
                if status != OK:
                    raise refusal(status, content)
                return decoded(content, answer)
            except EtcdError as exc:
                self._learn(exc, endpoint)
                if not left or not exc.is_endpoints:
                    raise

    @asynccontextmanager
    async def _exchange(
        self, endpoint: str, path: str, body: Mapping[str, Any]
    ) -> AsyncIterator[tuple[int, AsyncGenerator[bytes, None]]]:
        """Ask, and give the status and what follows, in pieces."""
        async with AsyncExitStack() as exchange:
            try:
                request = self._client.build_request(
                    "POST",
                    f"{endpoint}/v3/{path}",
                    content=msgspec.json.encode(body),
                    headers={"Authorization": self._token} if self._token else {},
                )
                response, pieces = await exchange.enter_async_context(
                    open_answer(self._client, request, self._answer_s)
                )
            except trio.TooSlowError:
                raise EtcdError("deadline", f"{endpoint}: no answer within {self._answer_s} s") from None
            except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as exc:  # the last two: no host at all
                raise _broken(exc, endpoint) from exc
            yield response.status_code, pieces

    def _learn(self, failure: EtcdError, endpoint: str) -> None:
        """Count a failure, and draw its consequences for what is asked next."""
        if failure.reason != "idle":  # nothing has happened for a while
            self.failures[failure.reason] += 1
        if failure.reason == "token":
            self._token = None
        elif failure.is_endpoints and endpoint == self._endpoints[0]:
            self._endpoints.append(self._endpoints.pop(0))


def _broken(error: Exception, endpoint: str = "") -> EtcdError:
    text = str(error) or type(error).__name__
    return EtcdError("connection", f"{endpoint}: {text}" if endpoint else text)


async def _next_piece(pieces: AsyncGenerator[bytes, None]) -> bytes:
    try:
        with trio.fail_after(IDLE_S):
            return await anext(pieces)
    except trio.TooSlowError:
        raise EtcdError("idle", f"silent for {IDLE_S} s") from None
    except httpx2.HTTPError as exc:
        raise _broken(exc) from exc
    except StopAsyncIteration:
        raise EtcdError("ended", "the watch has ended") from None


async def _read(pieces: AsyncGenerator[bytes, None], deadline_s: float) -> bytes:
    try:
        with trio.fail_after(deadline_s):
            return await read_whole(pieces, _MAX_ANSWER_BYTES)
    except httpx2.HTTPError as exc:
        raise _broken(exc) from exc
    except AnswerTooLarge as exc:
        raise EtcdError("garbage", str(exc)) from None
    except trio.TooSlowError:
        raise EtcdError("deadline", f"no whole answer within {deadline_s} s") from None


@asynccontextmanager
async def open_gateway(
    endpoints: Sequence[str],
    *,
    answer_s: float,
    tls: ssl.SSLContext | None = None,
    login: Login | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncIterator[Gateway]:
    """Open the way to the cluster at `endpoints`, "host:port"; nothing is asked yet.

    Args:
        endpoints: of one cluster, one at least.
        answer_s: how long each of them has for an answer, connecting included.
        tls: how to verify etcd, and who we are; None speaks in clear.
        login: for etcd's own authentication.
        transport: what to send requests by, instead of over sockets.
    """
    scheme = "https" if tls else "http"
    async with httpx2.AsyncClient(
        # Deadlines are Trio's, around each wait.
        timeout=None,
        trust_env=False,
        # In clear nobody is verified: without reading all the machine's authorities, 50 ms of CPU.
        verify=tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        transport=transport,
    ) as client:
        urls = [f"{scheme}://{endpoint}" for endpoint in endpoints]
        yield Gateway(client, urls, answer_s=answer_s, login=login)
