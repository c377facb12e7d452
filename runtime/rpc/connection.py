"""One HTTP/2 connection as grpclib's state machines see it: frames in, events to streams, frames out.

Nothing here waits.  `link.py` owns the socket and the tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import trio
from grpclib import protocol
from grpclib.config import Configuration
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamReset,
)
from h2.settings import SettingCodes
from hyperframe.frame import Frame, GoAwayFrame

from runtime.rpc.limits import RpcLimits
from runtime.rpc.streams import Stream
from runtime.rpc.transport import Transport
from runtime.rpc.waiting import Flag

_CONFIGURATION: Final = Configuration().__for_client__()


class Http2(H2Connection):
    """h2's connection, where GOAWAY means "no new calls" and those that are going on are finished.

    For h2 it is the end of everything, in both directions.
    """

    def announce_end(self, code: ErrorCodes = ErrorCodes.NO_ERROR, text: bytes = b"") -> None:
        """Tell the peer to open no more streams."""
        last = self.highest_inbound_stream_id
        self._prepare_for_sending(
            [GoAwayFrame(stream_id=0, last_stream_id=last, error_code=code, additional_data=text)]
        )

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        state, unsent = self.state_machine.state, self.data_to_send()
        answer = super()._receive_goaway_frame(frame)
        self.state_machine.state = state
        self._data_to_send += unsent
        return answer


def http2_config(*, client_side: bool) -> H2Configuration:
    """Return h2's settings: headers are checked by the call handlers, and ours need no check."""
    return H2Configuration(
        client_side=client_side,
        header_encoding="ascii",
        validate_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_inbound_headers=False,
        normalize_outbound_headers=False,
    )


def open_http2(limits: RpcLimits, *, client_side: bool) -> Http2:
    """Return a connection that has its preface and settings ready to send."""
    http2 = Http2(config=http2_config(client_side=client_side))
    http2.initiate_connection()
    initial = http2.local_settings.initial_window_size
    if limits.connection_window_bytes > initial:
        http2.increment_flow_control_window(limits.connection_window_bytes - initial)
    settings: dict[SettingCodes | int, int] = {SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes}
    if client_side:
        settings[SettingCodes.ENABLE_PUSH] = 0
    else:
        settings[SettingCodes.MAX_CONCURRENT_STREAMS] = limits.concurrent_calls
    http2.update_settings(settings)
    return http2


class Connection(protocol.Connection):
    """What the streams of one connection share.

    Attributes:
        limits: bounds of messages and windows.
        takes_calls: whether new calls may be opened (client).
        retired: set once it takes no new calls.
        answered: the peer has begun to answer a call (client).
    """

    def __init__(self, http2: Http2, transport: Transport, limits: RpcLimits) -> None:
        # Not the base's, which makes asyncio events.
        self._connection = http2
        self._http2 = http2
        self._transport = transport  # type: ignore[assignment]
        self._config = _CONFIGURATION
        self.limits = limits
        self.takes_calls = True
        self.retired = trio.Event()
        self.answered = False
        self.write_ready = Flag(up=True)  # type: ignore[assignment]
        self.stream_close_waiter = Flag()  # type: ignore[assignment]
        self.pong = Flag()

    def create_stream(self, *, stream_id: int | None = None, wrapper: Any = None) -> Stream:
        """Return a stream of this connection; without number it is one to be opened."""
        return Stream(self, self._connection, self._transport, stream_id=stream_id, wrapper=wrapper)

    def initialize(self) -> None:
        """Keepalive is a task of `Link`, not a timer of the loop."""

    def ping(self) -> None:
        """Ask the peer for a sign of life, which sets `pong`."""
        self.pong.clear()
        self._connection.ping(int(time.monotonic() * 1e6).to_bytes(8, "big"))
        self.flush()

    def ping_ack_process(self) -> None:
        """Take note of the sign of life."""
        self.pong.set()

    def announce_end(self, code: ErrorCodes = ErrorCodes.NO_ERROR, text: bytes = b"") -> None:
        """Send GOAWAY."""
        self._http2.announce_end(code, text)
        self.flush()

    def retire(self) -> None:
        """Take no more calls; those that wait for their turn find out now."""
        self.takes_calls = False
        self.retired.set()
        self.write_ready.set()
        self.stream_close_waiter.set()

    def close(self) -> None:
        """Write what is pending, and end."""
        self.retire()
        self._transport.close()


class Allowance:
    """How often a peer may do something: a burst, and so many a second."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._left = self._burst
        self._at = 0.0

    def spend(self, now: float) -> bool:
        """Take one; False if there is none left."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        self._left -= 1
        return self._left >= 0


class Events(protocol.EventsProcessor):
    """Hands the events of one connection to its streams.

    Args:
        on_released: called after each stream that has ended.
        on_goaway: called when the peer wants no more streams.
        on_flood: called when the peer gives up more calls than it may.
        on_settings: called when the peer has said its settings.
    """

    connection: Connection
    streams: dict[int, Stream]  # type: ignore[assignment]  # ours are its only ones

    def __init__(
        self,
        handler: protocol.AbstractHandler,
        connection: Connection,
        *,
        on_settings: Callable[[], None],
        on_goaway: Callable[[ConnectionTerminated], None],
        on_released: Callable[[], None],
        on_flood: Callable[[], None],
    ) -> None:
        super().__init__(handler, connection)
        self._on_settings = on_settings
        self._on_goaway = on_goaway
        self._on_released = on_released
        self._on_flood = on_flood
        limits = connection.limits
        self._resets = Allowance(limits.reset_burst, limits.resets_per_s)

    def register(self, stream: protocol.Stream) -> Callable[[], None]:
        """Send the stream its events until the returned function is called."""
        release = super().register(stream)

        def release_stream() -> None:
            release()
            self._on_released()

        return release_stream

    def process(self, event: Event) -> None:
        """Act on `event`; kinds that nobody needs (unknown frames, alternative services) are ignored."""
        act = self.processors.get(type(event))
        if act is not None:
            act(event)  # type: ignore[operator]

    def process_remote_settings_changed(self, event: RemoteSettingsChanged) -> None:
        """Wake who waits for a larger window or for one more stream."""
        super().process_remote_settings_changed(event)
        self.connection.stream_close_waiter.set()
        self._on_settings()

    def process_response_received(self, event: ResponseReceived) -> None:
        """Give a call the head of its answer."""
        self.connection.answered = True
        super().process_response_received(event)

    def process_stream_reset(self, event: StreamReset) -> None:
        """End the call with what the reset means."""
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.end_by_reset(event.error_code)
            self.handler.cancel(stream)
        self.connection.streams_failed += 1
        if event.remote_reset and not self._resets.spend(trio.current_time()):
            self._on_flood()

    def process_connection_terminated(self, event: ConnectionTerminated) -> None:
        """Let the calls go on that the peer will still answer."""
        self._on_goaway(event)

    def close(self, reason: str = "connection lost") -> None:
        """End every call of the connection."""
        self.connection.close()
        self.handler.close()
        for stream in list(self.streams.values()):
            stream.__terminated__(reason)
