"""One connection of the stand-in: its own codec, commands, and faults on demand."""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import ssl
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.fakes.nsqd.store import MESSAGE, Channel, Store

NAME = re.compile(rb"(?=.{1,64}$)[.a-zA-Z0-9_-]+(#ephemeral)?$")
RESPONSE, ERROR = 0, 1
WITH_BODY = {b"IDENTIFY", b"AUTH", b"PUB", b"MPUB", b"DPUB"}


class Fatal(Exception):
    """An error frame after which nsqd hangs up."""


@dataclass(eq=False)
class Server:
    """What all connections share."""

    args: argparse.Namespace
    store: Store
    tls: ssl.SSLContext | None
    clients: set[Client] = field(default_factory=set)
    too_late: int = 0


class Client:
    """One connection: reads commands one after the other, and one writer for all frames."""

    def __init__(self, server: Server, stream: trio.SocketStream) -> None:
        self.server = server
        self.socket = stream.socket
        self.stream: trio.abc.Stream = stream
        self.buffer = bytearray()
        self.rdy = self.in_flight = 0
        self.frozen = False
        self.authorized = server.args.auth_secret is None
        self.msg_timeout: float = server.args.msg_timeout
        self.heartbeat_s = 30.0
        self.channel: Channel | None = None
        self.out: list[bytes] = []
        self.output = trio.Event()
        self.sent = trio.Event()
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        self.server.clients.add(self)
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.write)
                    nursery.start_soon(self.beat)
                    try:
                        await self.read()
                    except Fatal as exc:
                        await self.wait_sent(ERROR, str(exc).encode())
                    except (ValueError, LookupError, struct.error) as exc:
                        await self.wait_sent(ERROR, f"E_INVALID {exc!r}".encode())
                    nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.server.clients.discard(self)
            if self.channel is not None:
                self.channel.clients.remove(self)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.stream)

    # -- faults

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.scope.cancel()

    def break_off(self) -> None:
        with suppress(OSError):
            os.write(self.socket.fileno(), struct.pack(">ii", 5000, MESSAGE) + b"half a message")
        self.scope.cancel()

    def freeze(self) -> None:
        self.frozen = True

    # -- output

    def frame(self, kind: int, payload: bytes) -> None:
        self.out.append(struct.pack(">ii", 4 + len(payload), kind) + payload)
        self.output.set()

    async def wait_sent(self, kind: int, payload: bytes) -> None:
        self.frame(kind, payload)
        while self.out:
            self.sent = trio.Event()
            await self.sent.wait()

    async def write(self) -> None:
        while True:
            await self.output.wait()
            self.output = trio.Event()
            if self.frozen:
                await trio.sleep_forever()
            sending = list(self.out)
            await self.stream.send_all(b"".join(sending))
            del self.out[: len(sending)]
            self.sent.set()

    async def beat(self) -> None:
        while True:
            await trio.sleep(self.heartbeat_s)
            self.frame(RESPONSE, b"_heartbeat_")

    # -- input

    async def more(self) -> None:
        data = await self.stream.receive_some(65536)
        if self.frozen:
            await trio.sleep_forever()
        if not data:
            raise trio.BrokenResourceError
        self.buffer += data

    async def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self.more()
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    async def read(self) -> None:
        if await self.exactly(4) != b"  V2":
            raise Fatal("E_BAD_PROTOCOL")
        while True:
            while (end := self.buffer.find(b"\n")) < 0:
                await self.more()
            command, *args = (await self.exactly(end + 1))[:-1].split(b" ")
            await self.do(command, args, await self.body(command) if command in WITH_BODY else b"")

    async def body(self, command: bytes) -> bytes:
        (size,) = struct.unpack(">i", await self.exactly(4))
        limit = self.server.args.max_msg_size if command == b"PUB" else self.server.args.max_body_size
        if not 0 < size <= limit:
            code = "E_BAD_MESSAGE" if command == b"PUB" else "E_BAD_BODY"
            raise Fatal(f"{code} {command.decode()} body too big or not there {size} > {limit}")
        return await self.exactly(size)

    async def do(self, command: bytes, args: list[bytes], body: bytes) -> None:
        if command in {b"PUB", b"MPUB", b"SUB"} and not self.authorized:
            raise Fatal(f"E_AUTH_FIRST AUTH required before {command.decode()}")
        if command == b"IDENTIFY":
            await self.identify(json.loads(body))
        elif command == b"AUTH":
            if body.decode() != self.server.args.auth_secret:
                raise Fatal("E_UNAUTHORIZED AUTH no authorizations found")
            self.authorized = True
            self.frame(RESPONSE, b'{"identity":"","identity_url":"","permission_count":1}')
        elif command in {b"PUB", b"MPUB"}:
            self.check(args[0], "TOPIC")
            self.server.store.publish(args[0], [body] if command == b"PUB" else self.unpack(body))
            self.frame(RESPONSE, b"OK")
        elif command == b"SUB":
            self.check(args[0], "TOPIC")
            self.check(args[1], "CHANNEL")
            self.channel = self.server.store.channel(args[0], args[1])
            self.channel.clients.append(self)
            self.frame(RESPONSE, b"OK")
        elif command == b"CLS":
            self.rdy = 0
            self.frame(RESPONSE, b"CLOSE_WAIT")
        elif command != b"NOP":
            self.answer(command, args)

    def answer(self, command: bytes, args: list[bytes]) -> None:
        """RDY, FIN, REQ, TOUCH: nothing is said unless they fail."""
        if self.channel is None:
            raise Fatal(f"E_INVALID cannot {command.decode()} in current state")
        if command == b"RDY":
            self.rdy = int(args[0])
            if not 0 <= self.rdy <= 2500:
                raise Fatal(f"E_INVALID RDY count {self.rdy} out of range 0-2500")
        elif command == b"TOUCH":
            stored, owner, _ = self.channel.in_flight.get(args[0], (None, None, 0.0))
            if stored is None or owner is not self:
                return self.late(command, args[0])
            self.channel.in_flight[args[0]] = (stored, self, time.monotonic() + self.msg_timeout)
        elif command in {b"FIN", b"REQ"}:
            taken = self.channel.take(args[0], self)
            if taken is None:
                return self.late(command, args[0])
            if command == b"REQ" and int(args[1]):
                self.channel.deferred.append((time.monotonic() + int(args[1]) / 1000, taken))
            elif command == b"REQ":
                self.channel.put(taken)
        else:
            raise Fatal(f"E_INVALID invalid command {command.decode(errors='replace')}")
        return self.channel.pump()

    def late(self, command: bytes, number: bytes) -> None:
        self.server.too_late += 1
        name = command.decode()
        self.frame(ERROR, f"E_{name}_FAILED {name} {number.decode()} failed ID not in flight".encode())

    def check(self, name: bytes, what: str) -> None:
        if not NAME.match(name):
            raise Fatal(f"E_BAD_{what} {what.lower()} name {name!r} is not valid")

    def unpack(self, body: bytes) -> list[bytes]:
        (count,) = struct.unpack_from(">i", body)
        bodies, at = [], 4
        for _ in range(count):
            (size,) = struct.unpack_from(">i", body, at)
            if not 0 < size <= self.server.args.max_msg_size:
                raise Fatal(f"E_BAD_MESSAGE MPUB message too big {size} > {self.server.args.max_msg_size}")
            bodies.append(body[at + 4 : at + 4 + size])
            at += 4 + size
        if not bodies or at != len(body):
            raise Fatal(f"E_BAD_BODY MPUB invalid message count {count}")
        return bodies

    async def identify(self, wanted: dict[str, Any]) -> None:
        buffering, least = wanted.get("output_buffer_timeout", 0), self.server.args.min_output_buffer_timeout
        heartbeat, timeout = wanted.get("heartbeat_interval", 0), wanted.get("msg_timeout", 0)
        if buffering > 0 and not least <= buffering <= 30_000:
            raise Fatal(f"E_BAD_BODY IDENTIFY output buffer timeout ({buffering}) is invalid")
        if heartbeat and not 1000 <= heartbeat <= 60_000:
            raise Fatal(f"E_BAD_BODY IDENTIFY heartbeat interval ({heartbeat}) is invalid")
        if timeout and not 1000 <= timeout <= 900_000:
            raise Fatal(f"E_BAD_BODY IDENTIFY msg timeout ({timeout}) is invalid")
        self.heartbeat_s = heartbeat / 1000 or self.heartbeat_s
        self.msg_timeout = timeout / 1000 or self.msg_timeout
        to_tls = self.server.tls is not None and bool(wanted.get("tls_v1"))
        features = {
            "max_rdy_count": 2500,
            "version": "1.3.0-fake",
            "msg_timeout": round(self.msg_timeout * 1000),
            "output_buffer_timeout": buffering or 250,
            "tls_v1": to_tls,
            "auth_required": self.server.args.auth_secret is not None,
        }
        await self.wait_sent(RESPONSE, json.dumps(features).encode())
        if self.server.tls is not None and to_tls:
            self.stream = trio.SSLStream(self.stream, self.server.tls, server_side=True)
            await self.stream.do_handshake()
            self.frame(RESPONSE, b"OK")
        elif self.server.tls is not None:
            raise Fatal("E_INVALID cannot continue without TLS")
