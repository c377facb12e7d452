"""Peers that do not keep to the rules: each costs at most its own connection, and bounded work."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset, TrailersReceived
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, SettingsFrame

from runtime.rpc.channel import Channel, open_channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.limits import RpcLimits
from runtime.rpc.server import RpcServer
from tests.runtime.rpc.probe import LIMITS, Probe, probing, serving, until
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Ask

pytestmark = pytest.mark.usefixtures("no_leaks")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/probe.Probe/Echo"),
    (":authority", "x"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Peer:
    """HTTP/2 by hand over one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        config = H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.http2 = H2Connection(config)
        self.http2.initiate_connection()
        self.seen: list[object] = []

    async def flush(self) -> None:
        await self.stream.send_all(self.http2.data_to_send())

    async def read_until(self, *kinds: type) -> object:
        with trio.fail_after(5):
            while True:
                for event in self.seen:
                    if isinstance(event, kinds):
                        self.seen.remove(event)
                        return event
                try:
                    data = await self.stream.receive_some()
                except trio.BrokenResourceError:
                    return None
                if not data:
                    return None
                self.seen.extend(self.http2.receive_data(data))
                await self.flush()


@asynccontextmanager
async def attacked(
    limits: RpcLimits = LIMITS, service: Probe | None = None
) -> AsyncIterator[tuple[RpcServer, Peer]]:
    """Serve a probe, connect by hand; afterwards the server must still serve, and hold nothing."""
    async with serving([service or Probe()], limits=limits) as server:
        host, port = server.addresses[0].split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            yield server, Peer(stream)
        async with open_channel(server.addresses[0], limits=LIMITS) as channel:
            assert await echoed(channel) == 42
        await until(lambda: server.statistics().in_flight == 0)
        await until(lambda: server.statistics().connections == 0)


async def echoed(channel: Channel) -> int:
    """Be served; a server with so little patience may take us, too, for a peer that says nothing."""
    with trio.fail_after(15):
        while True:
            try:
                return (await ProbeStub(channel).Echo(Ask(id=42))).id
            except RpcError as error:
                if error.status is not Status.UNAVAILABLE:
                    raise


async def send_all(peer: Peer, data: bytes) -> None:
    try:
        await peer.stream.send_all(data)
        with trio.fail_after(5):
            while await peer.stream.receive_some():
                pass
    except trio.BrokenResourceError:
        pass


@pytest.mark.parametrize("seed", range(12))
async def test_garbage_ends_its_connection_only(seed: int) -> None:
    dice = random.Random(seed)
    async with attacked(RpcLimits(connect_s=0.1, keepalive_s=0.05, keepalive_timeout_s=0.1)) as (
        server,
        peer,
    ):
        start = [b"", PREFACE, PREFACE + SettingsFrame(0).serialize()][seed % 3]
        await send_all(peer, start + dice.randbytes(dice.randrange(1, 5000)))
        await until(lambda: server.statistics().connections == 0)
        assert "internal error" not in server.statistics().failures


@pytest.mark.parametrize("seed", range(12))
async def test_damaged_frames_end_their_connection_or_their_call(seed: int) -> None:
    """A true request with some bytes changed: gRPC prefix, header block, frame headers."""
    dice = random.Random(seed)
    body = Ask(id=1, body=b"x" * 50).SerializeToString()
    async with attacked(RpcLimits(connect_s=0.1, keepalive_s=0.05, keepalive_timeout_s=0.1)) as (
        server,
        peer,
    ):
        for number in range(1, 20, 2):
            peer.http2.send_headers(number, HEADERS)
            peer.http2.send_data(number, b"\0" + struct.pack(">I", len(body)) + body, end_stream=True)
        data = bytearray(peer.http2.data_to_send())
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(PREFACE), len(data))] = dice.randrange(256)
        await send_all(peer, bytes(data))
        assert "internal error" not in server.statistics().failures


@pytest.mark.parametrize("start", [b"", PREFACE[:10], PREFACE, b"GET / HTTP/1.1\r\n"])
async def test_half_a_preface_is_given_up_in_time(start: bytes) -> None:
    async with attacked(RpcLimits(connect_s=0.1)) as (server, peer):
        await send_all(peer, start)
        await until(lambda: server.statistics().connections == 0)


async def test_rapid_resets_are_cut_off() -> None:
    """CVE-2023-44487: streams opened and given up as fast as they can be written."""
    limits = RpcLimits(reset_burst=100, resets_per_s=10)
    async with attacked(limits) as (server, peer):
        for number in range(1, 4001, 2):
            peer.http2.send_headers(number, HEADERS)
            peer.http2.reset_stream(number)
        sent = peer.http2.data_to_send()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, peer, sent)
            await until(lambda: server.statistics().failures.get("too many resets") == 1)
        await until(lambda: server.statistics().in_flight == 0)
        # One read's worth at most was begun past the allowance.
        assert sum(server.statistics().calls.values()) < 2000


async def test_more_streams_than_allowed_at_once_end_the_connection() -> None:
    async with attacked(RpcLimits(concurrent_calls=10)) as (server, peer):
        await peer.flush()
        await peer.stream.receive_some()
        for number in range(1, 301, 2):
            peer.http2.send_headers(number, HEADERS)
        await send_all(peer, peer.http2.data_to_send())
        assert server.statistics().failures["protocol error"] == 1


async def test_pings_from_a_peer_that_does_not_read_are_bounded() -> None:
    limits = RpcLimits(backlog_limit_bytes=100_000)
    async with attacked(limits) as (server, peer):
        await peer.flush()
        ping = PingFrame(0, opaque_data=b"12345678").serialize() * 4000
        try:
            with trio.move_on_after(10):
                while "peer does not read" not in server.statistics().failures:
                    await peer.stream.send_all(ping)
        except trio.BrokenResourceError:
            pass
        assert server.statistics().failures["peer does not read"] == 1


async def test_empty_data_frames_cost_no_memory_and_unknown_frames_are_ignored() -> None:
    async with attacked() as (server, peer):
        peer.http2.send_headers(1, HEADERS)
        await peer.flush()
        await peer.stream.send_all(DataFrame(1).serialize() * 20_000)
        unknown = b"\0\0\3\xee\0\0\0\0\0abc"
        await peer.stream.send_all(unknown * 10)
        body = Ask(id=1).SerializeToString()
        peer.http2.send_data(1, b"\0" + struct.pack(">I", len(body)) + body, end_stream=True)
        await peer.flush()
        assert isinstance(await peer.read_until(TrailersReceived), TrailersReceived)
        assert server.statistics().connections == 1


@pytest.mark.parametrize(
    ("prefix", "status"),
    [
        (b"\1" + struct.pack(">I", 3) + b"abc", "12"),
        (b"\0" + struct.pack(">I", 1 << 31) + b"abc", "8"),
        (b"\0" + struct.pack(">I", 9) + b"abc", "13"),
        (b"\0\0", "13"),
        (b"\0" + struct.pack(">I", 3) + b"\xff\xff\xff", "13"),
    ],
    ids=["compressed", "huge", "cut off", "cut off in the prefix", "undecodable"],
)
async def test_malformed_message_is_answered_with_a_status(prefix: bytes, status: str) -> None:
    async with attacked() as (_, peer):
        peer.http2.send_headers(1, HEADERS)
        peer.http2.send_data(1, prefix, end_stream=True)
        await peer.flush()
        while True:
            data = await peer.stream.receive_some()
            headers = [
                dict(event.headers or ())
                for event in peer.http2.receive_data(data)
                if hasattr(event, "headers")
            ]
            if headers:
                break
        assert headers[0]["grpc-status"] == status


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "POST")],
        HEADERS[1:],
        [*HEADERS[:4], ("content-type", "text/html")],
        HEADERS[:5],
        [*HEADERS[:4], ("content-type", "application/grpc")],
        [*HEADERS, ("grpc-timeout", "soon")],
        [*HEADERS, ("grpc-timeout", "99999999999999999999999H")],
        [*HEADERS, ("grpc-timeout", "9" * 400 + "H")],
        [*HEADERS, ("grpc-timeout", "9" * 5000 + "H")],
        [*HEADERS, ("key-bin", "a")],
        [*HEADERS, ("key", "\xff")],
        [(":method", "GET"), *HEADERS[1:]],
    ],
)
async def test_odd_headers_end_the_call_or_the_connection(headers: list[tuple[str, str]]) -> None:
    async with attacked() as (server, peer):
        peer.http2.send_headers(1, headers, end_stream=True)
        await peer.flush()
        await peer.read_until(ResponseReceived, StreamReset, TrailersReceived, ConnectionTerminated)
        await until(lambda: server.statistics().in_flight == 0)
        assert "internal error" not in server.statistics().failures


@pytest.mark.parametrize("method", ["Echo", "Down"])
async def test_call_whose_only_message_never_comes_ends_with_the_servers_deadline(method: str) -> None:
    """It was once held for as long as the connection stood, and a connection has room for 250 of them."""
    async with attacked(replace(LIMITS, call_s=0.1)) as (server, peer):
        peer.http2.send_headers(1, [*HEADERS[:2], (":path", f"/probe.Probe/{method}"), *HEADERS[3:]])
        await peer.flush()
        event = await peer.read_until(ResponseReceived)
        assert isinstance(event, ResponseReceived)
        answer: dict[Any, Any] = dict(event.headers)
        assert answer["grpc-status"] == str(Status.DEADLINE_EXCEEDED.value)
        await until(lambda: server.statistics().in_flight == 0)


async def test_stream_that_says_nothing_for_long_goes_on() -> None:
    limits = replace(LIMITS, call_s=0.05)
    async with probing(limits=limits) as (_, _, channel), ProbeStub(channel).Chat.open() as stream:
        await stream.send_message(Ask(id=1))
        await stream.recv_message()
        await trio.sleep(4 * limits.call_s)
        await stream.send_message(Ask(id=2))
        assert await stream.recv_message() is not None


async def test_endless_continuation_is_cut_off() -> None:
    async with attacked(RpcLimits(connect_s=0.5)) as (server, peer):
        frame: Frame = HeadersFrame(1, data=b"\x40\x01a\x01b" * 100)
        flood = b"\0\x40\0\x09\0\0\0\0\1" + b"\x40\x01a\x01b" * 3276 + b"\x40\x01a\x01"
        await send_all(peer, PREFACE + SettingsFrame(0).serialize() + frame.serialize() + flood * 200)
        await until(lambda: server.statistics().connections == 0)
        assert server.statistics().failures
