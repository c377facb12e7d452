"""A WebSocket on the poller: the upgrade, whole frames inline, everything else the slow way."""

from __future__ import annotations

from typing import Final, Protocol

from bench.frames import CLOSE, CONTINUATION, PING, PONG, Frame, Refused, Upgrade, masked, split
from bench.poller import Poller
from bench.stream import Endpoint, Stream

_BINARY_FINAL: Final = 0x82
_SHORT: Final = 126
_CLOSE_NORMAL: Final = (1000).to_bytes(2, "big")


class Receiver(Protocol):
    """Whose WebSocket it is."""

    def opened(self, now: int) -> None:
        """The upgrade was answered."""

    def received(self, payload: bytes, now: int) -> None:
        """A whole message has come."""

    def ended(self, why: str, retry_after_s: float | None) -> None:
        """The socket is closed, or was never open."""


class WebSocket(Stream):
    """One client connection; `key` masks all its frames.  Owned by its poller until it is aborted."""

    __slots__ = (
        "_fragments",
        "_rest",
        "_retry_after_s",
        "_upgrade",
        "_upgraded",
        "close_code",
        "key",
        "receiver",
    )

    def __init__(
        self, poller: Poller, endpoint: Endpoint, upgrade: Upgrade, key: bytes, receiver: Receiver
    ) -> None:
        super().__init__(poller, endpoint)
        self._upgrade = upgrade
        self._upgraded = False
        self._rest = b""
        self._fragments: list[bytes] | None = None
        self._retry_after_s: float | None = None
        self.key = key
        self.receiver = receiver
        self.close_code = 0

    def send_message(self, payload: bytes) -> None:
        """Send one binary message."""
        self.send(masked(payload, self.key))

    def close(self) -> None:
        """Say goodbye; the server's answer, or its end, closes the socket."""
        self.send(masked(_CLOSE_NORMAL, self.key, CLOSE))

    def on_connected(self, now: int) -> None:
        self.send(self._upgrade.request)

    def on_end(self, why: str) -> None:
        code = self.close_code
        self.receiver.ended(f"closed with {code}" if code else why, self._retry_after_s)

    def on_data(self, data: bytes, now: int) -> None:
        # The common case: exactly one final, binary frame of under 64 KiB.
        if not self._rest and self._upgraded and data[0] == _BINARY_FINAL:
            size = len(data)
            if size > 1 and data[1] + 2 == size < _SHORT + 2:
                self.receiver.received(data[2:], now)
                return
            if size > 3 and data[1] == _SHORT and (data[2] << 8 | data[3]) + 4 == size:
                self.receiver.received(data[4:], now)
                return
        self._feed(self._rest + data, now)

    def _feed(self, data: bytes, now: int) -> None:
        if not self._upgraded:
            try:
                rest = self._upgrade.answered(data)
            except Refused as refused:
                self._retry_after_s = refused.retry_after_s
                self.abort(str(refused))
                return
            if rest is None:
                self._rest = data
                return
            self._upgraded = True
            data = rest
            self.receiver.opened(now)
        frames, self._rest = split(data)
        for frame in frames:
            if self.sock is None:
                return
            self._take(frame, now)

    def _take(self, frame: Frame, now: int) -> None:
        if frame.opcode == PING:
            self.send(masked(frame.payload, self.key, PONG))
        elif frame.opcode == CLOSE:
            self.close_code = int.from_bytes(frame.payload[:2], "big") or 1005
            self.send(masked(frame.payload[:2], self.key, CLOSE))
            self.abort()
        elif frame.opcode == PONG:
            return
        elif frame.is_final and frame.opcode != CONTINUATION:
            self.receiver.received(frame.payload, now)
        else:
            self._take_fragment(frame, now)

    def _take_fragment(self, frame: Frame, now: int) -> None:
        if self._fragments is None:
            self._fragments = []
        self._fragments.append(frame.payload)
        if frame.is_final:
            payload, self._fragments = b"".join(self._fragments), None
            self.receiver.received(payload, now)
