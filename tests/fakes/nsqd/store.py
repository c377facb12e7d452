"""What the stand-in keeps: messages, channels, and a journal on disk."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

MESSAGE = 2


class Subscriber(Protocol):
    """A client that has said SUB."""

    rdy: int
    in_flight: int
    frozen: bool
    msg_timeout: float

    def frame(self, kind: int, payload: bytes) -> None: ...


@dataclass(eq=False)
class Stored:
    id: bytes
    body: bytes
    timestamp: int
    attempts: int = 0


class Journal:
    """The disk: what is queued and not in flight, written through as with --mem-queue-size=0."""

    def __init__(self, path: Path, *, write_through: bool) -> None:
        self._path = path
        self._write_through = write_through
        self.restored: dict[tuple[str, str, str], Stored] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                self._replay(json.loads(line))
        self._file = path.open("w", buffering=1)
        for (topic, channel, _), stored in self.restored.items():
            self.add(topic.encode(), channel.encode(), stored)

    def _replay(self, entry: list[Any]) -> None:
        kind, topic, channel, number, *rest = entry
        if kind == "+":
            body, timestamp, attempts = rest
            stored = Stored(number.encode(), base64.b64decode(body), timestamp, attempts)
            self.restored[topic, channel, number] = stored
        else:
            self.restored.pop((topic, channel, number), None)

    def add(self, topic: bytes, channel: bytes, stored: Stored, *, forced: bool = False) -> None:
        if self._write_through or forced:
            body = base64.b64encode(stored.body).decode()
            self._line(["+", topic, channel, stored.id, body, stored.timestamp, stored.attempts])

    def remove(self, topic: bytes, channel: bytes, stored: Stored) -> None:
        if self._write_through:
            self._line(["-", topic, channel, stored.id])

    def _line(self, entry: list[Any]) -> None:
        entry = [value.decode() if isinstance(value, bytes) else value for value in entry]
        self._file.write(json.dumps(entry) + "\n")


class Channel:
    def __init__(self, store: Store, topic: bytes, name: bytes) -> None:
        self.store, self.topic, self.name = store, topic, name
        self.queue: deque[Stored] = deque()
        self.clients: list[Subscriber] = []
        self.in_flight: dict[bytes, tuple[Stored, Subscriber, float]] = {}
        self.deferred: list[tuple[float, Stored]] = []

    def put(self, stored: Stored) -> None:
        self.store.journal.add(self.topic, self.name, stored)
        self.queue.append(stored)

    def pump(self) -> None:
        while self.queue:
            client = next((c for c in self.clients if c.in_flight < c.rdy and not c.frozen), None)
            if client is None:
                return
            self.clients.remove(client)
            self.clients.append(client)
            stored = self.queue.popleft()
            self.store.journal.remove(self.topic, self.name, stored)
            stored.attempts += 1
            self.in_flight[stored.id] = (stored, client, time.monotonic() + client.msg_timeout)
            client.in_flight += 1
            head = struct.pack(">qH", stored.timestamp, stored.attempts)
            client.frame(MESSAGE, head + stored.id + stored.body)

    def take(self, number: bytes, client: Subscriber) -> Stored | None:
        """End the loan of `client`."""
        stored, owner, _ = self.in_flight.get(number, (None, None, 0))
        if stored is None or owner is not client:
            return None
        del self.in_flight[number]
        client.in_flight -= 1
        return stored

    def scan(self, now: float) -> None:
        for stored, client, deadline in list(self.in_flight.values()):
            if now > deadline:
                del self.in_flight[stored.id]
                client.in_flight -= 1
                self.store.timeouts += 1
                self.put(stored)
        for entry in [entry for entry in self.deferred if now > entry[0]]:
            self.deferred.remove(entry)
            self.put(entry[1])
        self.pump()


@dataclass(eq=False)
class Store:
    """All topics."""

    journal: Journal
    keeps_memory: bool
    channels: dict[bytes, dict[bytes, Channel]] = field(default_factory=dict)
    number: int = field(default_factory=lambda: time.time_ns() & 0xFFFF_FFFF_FFFF)
    timeouts: int = 0

    def restore(self) -> None:
        for (topic, channel, _), stored in self.journal.restored.items():
            self.channel(topic.encode(), channel.encode()).queue.append(stored)

    def channel(self, topic: bytes, name: bytes) -> Channel:
        """Return a channel; the nameless one holds what a topic without any has got."""
        channels = self.channels.setdefault(topic, {})
        if name not in channels:
            channels[name] = Channel(self, topic, name)
            if waiting := channels.pop(b"", None) if name else None:
                for stored in waiting.queue:
                    self.journal.remove(topic, b"", stored)
                    channels[name].put(stored)
        return channels[name]

    def publish(self, topic: bytes, bodies: list[bytes]) -> None:
        if not self.channels.get(topic):
            self.channel(topic, b"")
        for body in bodies:
            for channel in self.channels[topic].values():
                self.number += 1
                channel.put(Stored(b"%016x" % self.number, body, time.time_ns()))
        for channel in self.channels[topic].values():
            channel.pump()

    def all_channels(self) -> Iterator[Channel]:
        for channels in self.channels.values():
            yield from channels.values()

    def scan(self) -> None:
        for channel in self.all_channels():
            channel.scan(time.monotonic())

    def flush_to_disk(self) -> None:
        """SIGTERM: everything is kept, what was in flight behind the rest."""
        for channel in self.all_channels():
            if self.keeps_memory:
                for stored in channel.queue:
                    self.journal.add(channel.topic, channel.name, stored, forced=True)
            for stored in [*(s for s, _, _ in channel.in_flight.values()), *(s for _, s in channel.deferred)]:
                self.journal.add(channel.topic, channel.name, stored, forced=True)

    def stats(self) -> dict[str, Any]:
        return {
            f"{channel.topic.decode()}/{channel.name.decode()}": {
                "depth": len(channel.queue),
                "in_flight": len(channel.in_flight),
                "deferred": len(channel.deferred),
                "rdy": [client.rdy for client in channel.clients],
            }
            for channel in self.all_channels()
        }
