"""A stand-in for etcd's JSON gateway, behind httpx2 instead of behind a socket, in Trio's time.

It speaks the same JSON as etcd 3.4, knows leases, revisions, watches, compaction and simple tokens, and does
on demand what a real one does not easily: dead and frozen endpoints, odd answers, streams in odd pieces.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2
import trio

Body = dict[str, Any]


@dataclass
class Stored:
    value: bytes
    lease: int


@dataclass
class Watcher:
    """A stream that is open; `lines` wait to be read."""

    key: bytes
    end: bytes
    lines: list[bytes]
    broken: bool = False

    def tell(self, message: Body) -> None:
        self.lines.append(json.dumps(message).encode() + b"\n")


class Stream(httpx2.AsyncByteStream):
    def __init__(self, etcd: FakeEtcd, watcher: Watcher) -> None:
        self.etcd, self.watcher = etcd, watcher

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self.watcher.lines:
                for piece in self.etcd.cut(self.watcher.lines.pop(0)):
                    yield piece
            if self.watcher.broken:
                raise httpx2.ReadError("broken")
            with trio.move_on_at(self.etcd.next_expiry()):
                await self.etcd.news.park()
            self.etcd.expire()

    async def aclose(self) -> None:
        if self.watcher in self.etcd.watchers:
            self.etcd.watchers.remove(self.watcher)


class FakeEtcd(httpx2.AsyncBaseTransport):
    """One cluster; all endpoints that are asked are its.

    Attributes:
        dead: endpoints that refuse connections; frozen: those that never answer; `None` is all.
        odd: path -> answers to give instead of what would be right, the first first.
        on_ask: told each path before it is answered.
        asked: how often each path was asked, with "host:port path" as well.
        cut: how a line of a stream arrives.
    """

    def __init__(self) -> None:
        self.dead: set[str] | None = set()
        self.frozen: set[str] | None = set()
        self.odd: dict[str, list[httpx2.Response]] = {}
        self.on_ask: Callable[[str], None] = lambda _path: None
        self.asked: Counter[str] = Counter()
        self.cut: Callable[[bytes], list[bytes]] = lambda line: [line]
        self.news = trio.lowlevel.ParkingLot()
        self.watchers: list[Watcher] = []
        self.password: str | None = None
        self.tokens: set[str] = set()
        self._ids = count(7587863_000_000_000)
        self.wipe()

    # -- what tests do

    def wipe(self) -> None:
        self.store: dict[bytes, Stored] = {}
        self.leases: dict[int, tuple[int, float]] = {}
        self.history: list[tuple[int, Body]] = []
        self.compacted = 0
        self.revision = 1

    def break_streams(self) -> None:
        for watcher in self.watchers:
            watcher.broken = True
        self.news.unpark_all()

    def stop(self) -> None:
        self.dead = None
        self.break_streams()

    def start(self) -> None:
        self.dead = set()

    def put(self, key: str, value: str, lease: int = 0) -> None:
        self._put(key.encode(), value.encode(), lease)

    def delete(self, key: str) -> None:
        self._delete(key.encode())

    def keys(self) -> set[str]:
        self.expire()
        return {key.decode() for key in self.store}

    def compact(self) -> None:
        self.compacted = self.revision
        self.history.clear()

    # -- leases and changes

    def next_expiry(self) -> float:
        return min((deadline for _, deadline in self.leases.values()), default=float("inf"))

    def expire(self) -> None:
        for lease, (_, deadline) in list(self.leases.items()):
            if deadline <= trio.current_time():
                self._end_lease(lease)

    def _end_lease(self, lease: int) -> None:
        del self.leases[lease]
        for key in [key for key, stored in self.store.items() if stored.lease == lease]:
            self._delete(key)

    def _put(self, key: bytes, value: bytes, lease: int) -> None:
        self.store[key] = Stored(value, lease)
        self._changed(key, {"kv": {"key": text(key), "value": text(value)}})

    def _delete(self, key: bytes) -> None:
        del self.store[key]
        self._changed(key, {"type": "DELETE", "kv": {"key": text(key)}})

    def _changed(self, key: bytes, event: Body) -> None:
        self.revision += 1
        self.history.append((self.revision, event))
        for watcher in self.watchers:
            if watcher.key <= key < watcher.end:
                watcher.tell({"result": {"header": self._header(), "events": [event]}})
        self.news.unpark_all()

    def _header(self) -> Body:
        return {"revision": str(self.revision)}

    # -- the gateway

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await trio.lowlevel.checkpoint()
        endpoint = f"{request.url.host}:{request.url.port}"
        path = request.url.path.removeprefix("/v3/")
        self.asked.update((path, f"{endpoint} {path}"))
        self.on_ask(path)
        if self.dead is None or endpoint in self.dead:
            raise httpx2.ConnectError("refused")
        if self.frozen is None or endpoint in self.frozen:
            await trio.sleep_forever()
        if odd := self.odd.get(path):
            return odd.pop(0)
        self.expire()
        body = json.loads(await request.aread())
        if self.password is not None and path != "auth/authenticate":
            if "authorization" not in request.headers:
                return failure(3, "etcdserver: user name is empty")
            if request.headers["authorization"] not in self.tokens:
                return failure(16, "etcdserver: invalid auth token")
        answer: httpx2.Response = getattr(self, "_" + path.replace("/", "_"))(body)
        return answer

    def _auth_authenticate(self, body: Body) -> httpx2.Response:
        if self.password is None:
            return failure(9, "etcdserver: authentication is not enabled")
        if body["password"] != self.password:
            return failure(3, "etcdserver: authentication failed, invalid user ID or password")
        self.tokens.add(f"token.{next(self._ids)}")
        return success({"token": max(self.tokens)})

    def _lease_grant(self, body: Body) -> httpx2.Response:
        lease = next(self._ids)
        self.leases[lease] = body["TTL"], trio.current_time() + body["TTL"]
        return success({"ID": str(lease), "TTL": str(body["TTL"])})

    def _lease_keepalive(self, body: Body) -> httpx2.Response:
        if body["ID"] not in self.leases:
            return success({"result": {"ID": str(body["ID"])}})
        ttl, _ = self.leases[body["ID"]]
        self.leases[body["ID"]] = ttl, trio.current_time() + ttl
        return success({"result": {"ID": str(body["ID"]), "TTL": str(ttl)}})

    def _lease_revoke(self, body: Body) -> httpx2.Response:
        if body["ID"] not in self.leases:
            return failure(5, "etcdserver: requested lease not found")
        self._end_lease(body["ID"])
        return success({})

    def _kv_put(self, body: Body) -> httpx2.Response:
        if body["lease"] and body["lease"] not in self.leases:
            return failure(5, "etcdserver: requested lease not found")
        self._put(base64.b64decode(body["key"]), base64.b64decode(body["value"]), body["lease"])
        return success({"header": self._header()})

    def _kv_txn(self, body: Body) -> httpx2.Response:
        (comparison,), (request,) = body["compare"], body["success"]
        assert (comparison["target"], comparison["version"]) == ("VERSION", 0)
        if base64.b64decode(comparison["key"]) in self.store:
            return success({"header": self._header()})
        answer = self._kv_put(request["request_put"])
        return success({"succeeded": True}) if answer.status_code == 200 else answer

    def _kv_range(self, body: Body) -> httpx2.Response:
        first, end = base64.b64decode(body["key"]), base64.b64decode(body["range_end"])
        pairs = [
            {"key": text(key), "value": text(stored.value)}
            for key, stored in sorted(self.store.items())
            if first <= key < end
        ]
        return success({"header": self._header()} | ({"kvs": pairs} if pairs else {}))

    def _watch(self, body: Body) -> httpx2.Response:
        wanted = body["create_request"]
        key, end = base64.b64decode(wanted["key"]), base64.b64decode(wanted["range_end"])
        watcher = Watcher(key, end, [])
        watcher.tell({"result": {"header": self._header(), "created": True}})
        if 0 < wanted["start_revision"] <= self.compacted:
            watcher.tell({"result": {"canceled": True, "compact_revision": str(self.compacted)}})
        missed = [event for revision, event in self.history if revision >= wanted["start_revision"]]
        missed = [event for event in missed if key <= base64.b64decode(event["kv"]["key"]) < end]
        if missed:
            watcher.tell({"result": {"header": self._header(), "events": missed}})
        self.watchers.append(watcher)
        return httpx2.Response(200, stream=Stream(self, watcher))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def success(answer: Body) -> httpx2.Response:
    return httpx2.Response(200, json=answer)


def failure(code: int, message: str, status: int = 0) -> httpx2.Response:
    statuses = {3: 400, 5: 404, 7: 403, 9: 400, 14: 503, 16: 401}
    answer = {"error": message, "message": message, "code": code}
    return httpx2.Response(status or statuses[code], json=answer)
