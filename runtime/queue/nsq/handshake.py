"""From an address to a stream that speaks NSQ: connect, IDENTIFY, TLS, AUTH, under one deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from runtime.queue.nsq import codec
from runtime.queue.nsq.codec import Codec, Message
from runtime.queue.nsq.errors import CommandRefused, ConnectionLost, NsqError, ProtocolError
from runtime.queue.nsq.options import NsqOptions
from runtime.units import split_peer

USER_AGENT: Final = "roomcast"
# How nsqd says that it does not like a value of IDENTIFY; it hangs up after it.
_NOT_AGREED: Final = "E_BAD_BODY"
_RECEIVE_BYTES: Final = 4096


class _Features(msgspec.Struct):
    """nsqd's answer to IDENTIFY, as far as it matters here; durations in ms."""

    max_rdy_count: int = 2500
    msg_timeout: int = 60_000
    output_buffer_timeout: int = 250
    tls_v1: bool = False
    auth_required: bool = False
    version: str = ""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What nsqd has agreed to.

    Attributes:
        msg_timeout_s: how long a delivery may stay unanswered.
        max_rdy: the most that RDY may say; more closes the connection.
        output_buffering_ms: how long nsqd may hold back a delivery to send several at once.
        version: nsqd's.
    """

    msg_timeout_s: float
    max_rdy: int
    output_buffering_ms: int
    version: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream after its handshake, and what belongs to it from then on."""

    stream: trio.abc.Stream
    codec: Codec
    negotiated: Negotiated


async def open_stream(address: str, options: NsqOptions) -> Opened:
    """Connect to the nsqd at `address` and agree with it.

    Cancelled or failed, it leaves no socket open.

    Raises:
        NsqError: refused, unreachable, no NSQ, or not done within `connect_deadline_s`.
    """
    try:
        with trio.fail_after(options.connect_deadline_s):
            for buffering_ms in options.output_buffering_ms[:-1]:
                try:
                    return await _open_stream(address, options, buffering_ms)
                except CommandRefused as exc:
                    if exc.code != _NOT_AGREED:
                        raise
            return await _open_stream(address, options, options.output_buffering_ms[-1])
    except trio.TooSlowError:
        raise ConnectionLost("connect-deadline", f"{address} has not answered in time") from None


async def _open_stream(address: str, options: NsqOptions, buffering_ms: int) -> Opened:
    try:
        host, port = split_peer(address)
        stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
    except (OSError, ValueError) as exc:  # ValueError: no address, perhaps one that nsqlookupd has told
        raise ConnectionLost("unreachable", f"{address}: {exc}") from exc
    try:
        return await _agree(stream, host, options, buffering_ms)
    except trio.BrokenResourceError as exc:
        await trio.aclose_forcefully(stream)
        raise ConnectionLost("handshake", f"{address}: {exc.__cause__ or exc}") from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _agree(stream: trio.abc.Stream, host: str, options: NsqOptions, buffering_ms: int) -> Opened:
    frames = Codec()
    hello = codec.identify(
        {
            "client_id": options.client_id,
            "hostname": options.client_id,
            "user_agent": USER_AGENT,
            "feature_negotiation": True,
            "heartbeat_interval": round(options.heartbeat_s * 1000),
            "msg_timeout": round(options.msg_timeout_s * 1000),
            "output_buffer_timeout": buffering_ms,
            "tls_v1": options.tls is not None,
        }
    )
    features = _read_features(await _ask(stream, frames, codec.MAGIC + hello))
    if options.tls is not None:
        if not features.tls_v1:
            raise ConnectionLost("no-tls", "nsqd speaks in clear only")
        stream = trio.SSLStream(stream, options.tls, server_hostname=options.tls_name or host)
        await _ask(stream, frames, b"")  # nsqd says OK once more, through TLS
    if features.auth_required:
        if not options.auth_secret:
            raise ConnectionLost("no-auth-secret", "nsqd wants AUTH")
        await _ask(stream, frames, codec.auth(options.auth_secret))
    negotiated = Negotiated(
        msg_timeout_s=features.msg_timeout / 1000,
        max_rdy=features.max_rdy_count,
        output_buffering_ms=features.output_buffer_timeout,
        version=features.version,
    )
    return Opened(stream, frames, negotiated)


async def _ask(stream: trio.abc.Stream, frames: Codec, command: bytes) -> bytes:
    """Send one command and return its answer; until SUB, nsqd sends nothing else but heartbeats."""
    if command:
        await stream.send_all(command)
    answer: bytes | None = None
    while answer is None:
        data = await stream.receive_some(_RECEIVE_BYTES)
        if not data:
            raise ConnectionLost("handshake", "closed by nsqd")
        for frame in frames.frames(bytes(data)):
            if isinstance(frame, NsqError):
                raise frame
            if isinstance(frame, Message):
                raise ProtocolError("a message before SUB")
            if frame.payload == codec.HEARTBEAT:
                await stream.send_all(codec.NOP)
            else:
                answer = frame.payload
    return answer


def _read_features(answer: bytes) -> _Features:
    try:
        return msgspec.json.decode(answer, type=_Features)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(f"answer to IDENTIFY: {exc}") from exc
