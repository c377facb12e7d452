"""One client's socket after the upgrade: frames in, answers and pushes out.

A plain frame - whole, masked, data - is parsed, decided and answered within `ready`: one recv, one send,
no task switch.  Everything else goes through a wsproto object that lives until it is dealt with
(unusual.py).

Rules
1. Frames are parsed in order, and never while the receiver has work under way (`Pause`).
2. What is buffered is bounded: the unparsed tail by some reads and one small frame, a message by its
   limit, the outbox by its limits.
3. `abort` is the only place that closes the socket.  It takes the descriptor out of the poller first,
   tells the receiver once, and leaves no reference cycle.
4. Closing: our close frame, then our end, then whatever comes is thrown away until the peer's end or a
   deadline.  Closing with unread input would reset the connection, and the frame might never be seen.
"""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from conn_server.frames import (
    BINARY_WHOLE,
    CLOSE,
    MASKED,
    SHORT,
    TEXT_WHOLE,
    Header,
    encode_frame,
    parse_header,
    unmask,
)
from conn_server.outbox import Frames, Outbox
from conn_server.poller import READABLE, WRITABLE, Poller
from conn_server.tls import BLOCKED, end_writing
from conn_server.unusual import Unusual, Violation
from schema.closing import CLOSINGS, CloseCode
from schema.message import Level

OPEN: Final = 0
CLOSING: Final = 1
CLOSED: Final = 2

_FIRST_READ: Final = 448
"""Allocated from a pool by Python (512 bytes with the head); a heartbeat, and most of what is said, fits."""
_NEXT_READ: Final = 16 * 1024
_HELD_BYTES: Final = 4096
"""What is taken of a peer that goes on talking while its last message is under way, twice at most."""
_WAIT_BYTES: Final = 4096
"""A frame up to this size waits for its end in the tail, a bigger one in wsproto."""
_MAX_REASON_BYTES: Final = 123
_NONE_STANDING: Final[Mapping[bytes, bytes]] = {}
_TWO_BYTES: Final = MASKED | 2
"""The second byte of a frame that holds two, as a heartbeat does; 8 bytes with its head and mask key."""
_IMPORTANT: Final = Level.IMPORTANT  # looking a member up costs more than a name


class Pause(Enum):
    """A receiver's answer: read nothing more until `Connection.resume`."""

    PAUSE = "pause"


class Receiver(Protocol):
    """Who decides about messages and deadlines.  Nothing here may wait."""

    def receive(self, payload: bytes, now: float) -> bytes | Pause | None:
        """Decide about one message that came at `now`; bytes are answered at once."""

    def swept(self, now: float) -> float:
        """Look at the deadlines; return when to look again."""

    def closing(self) -> None:
        """Closing has begun: nothing comes or goes any more; called once, at most."""

    def closed(self, code: int) -> None:
        """The socket is closed; called once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one connection, the same for all; docs in deploy/examples/conn.toml."""

    max_frame_bytes: int = 64 * 1024
    max_message_bytes: int = 64 * 1024
    outbox_soft_bytes: int = 256 * 1024
    outbox_hard_bytes: int = 1024 * 1024
    stall_timeout_s: float = 20.0
    close_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class TrafficStatistics:
    """Counts since the start.

    Attributes:
        frames: whole frames that clients sent.
        unusual: pieces of them that wsproto looked at.
        dropped_normal: NORMAL frames that members did not get, by why: their outbox was `full`, they were
            `evicted`, or the socket was `gone`.
        dropped_important: all other frames that they did not get, answers among them; never for `full`.
        evicted: slow members, by why.
        closed: connections by close code, 1006 for those that ended without one, 0 for codes that only
            their clients know.
    """

    frames: int
    unusual: int
    dropped_normal: Mapping[str, int]
    dropped_important: Mapping[str, int]
    evicted: Mapping[str, int]
    closed: Mapping[int, int]


@dataclass(slots=True)
class Wire:
    """What all connections of a node share.  Owned by the conn server's app."""

    poller: Poller
    limits: Limits
    log: FilteringBoundLogger
    frames: int = 0
    unusual: int = 0
    dropped_normal: Counter[str] = field(default_factory=Counter)
    dropped_important: Counter[str] = field(default_factory=Counter)
    evicted: Counter[str] = field(default_factory=Counter)
    closed: Counter[int] = field(default_factory=Counter)

    def count_closed(self, code: int) -> None:
        """Count an ended connection; a client must not be able to make up a label per code."""
        self.closed[code if code in CLOSINGS else 0] += 1

    def count_dropped(self, why: str, frames: Frames) -> None:
        """Count frames that a member will not get."""
        if frames.normal:
            self.dropped_normal[why] += frames.normal
        if frames.important:
            self.dropped_important[why] += frames.important

    def statistics(self) -> TrafficStatistics:
        """Return the counts since the start."""
        return TrafficStatistics(
            self.frames,
            self.unusual,
            dict(self.dropped_normal),
            dict(self.dropped_important),
            dict(self.evicted),
            dict(self.closed),
        )


class Connection:
    """One upgraded socket, driven by the poller.  Owned by its client's task; dies by `abort`.

    Args:
        sock: non-blocking, in the poller already; ours from now on.
        wire: shared by all.
        receiver: decides.

    Attributes:
        state: OPEN (0, so that `not state` is the quick check), CLOSING or CLOSED.
        outbox: what the socket has not taken yet, None as long as it takes everything.
        last_seen: when a whole frame came last or, while closing, when that began.
        standing: messages that have the same answer every time, and its frame; the receiver puts them here
            and is not asked about them.
    """

    __slots__ = (
        "_farewell",
        "_interest",
        "_is_paused",
        "_receiver",
        "_tail",
        "_unusual",
        "_wire",
        "last_seen",
        "outbox",
        "sock",
        "standing",
        "state",
    )

    def __init__(self, sock: socket.socket, wire: Wire, receiver: Receiver) -> None:
        self.sock = sock
        self._wire = wire
        self._receiver: Receiver | None = receiver
        self.state = OPEN
        self.outbox: Outbox | None = None
        self.last_seen = wire.poller.now
        self.standing = _NONE_STANDING
        self._tail = b""  # received and not parsed yet
        self._unusual: Unusual | None = None
        self._is_paused = False
        self._farewell: tuple[int, str] | None = None  # close so when the work under way is done
        self._interest = READABLE

    # -- driven by the poller

    def ready(self, events: int) -> None:
        """Write what waits, read what came."""
        if events == READABLE and not self._is_paused:  # nearly always
            self._read()
            return
        if events & WRITABLE:
            self._flush()
        if self.state == CLOSED:  # that is how writing found it
            return
        if events & READABLE:
            if self._is_paused:
                self._hold()
            else:
                self._read()
        elif events & ~WRITABLE:  # EPOLLERR and EPOLLHUP come whatever one listens for
            self.abort()

    def swept(self, now: float) -> float:
        """Look at the deadlines: of closing, of a peer that takes nothing, of the receiver."""
        limits, receiver, stalled_at = self._wire.limits, self._receiver, inf
        if self.state or receiver is None:
            if now - self.last_seen > limits.close_timeout_s:
                self.abort()
            return self.last_seen + limits.close_timeout_s
        if self.outbox is not None:
            stalled_at = self.outbox.progress_at + limits.stall_timeout_s
            if now > stalled_at:
                self._evict("stalled")
                return now + limits.close_timeout_s
        return min(stalled_at, receiver.swept(now))

    def look_at(self, deadline: float) -> None:
        """Say that `swept` is to be called when `deadline` has come, if not earlier."""
        if self.state != CLOSED:
            self._wire.poller.look_at(self.sock.fileno(), deadline)

    def _read(self) -> None:
        try:
            data = self.sock.recv(_FIRST_READ)
            if len(data) == _FIRST_READ:
                data += self._read_more()
        except BLOCKED:
            return
        except OSError:
            self.abort()
            return
        if (
            # Two bytes in a frame that comes alone: nearly all that a node reads in its life are heartbeats.
            len(data) == 8
            and data[0] == BINARY_WHOLE
            and data[1] == _TWO_BYTES
            and not self.state
            and not self._tail
            and self._unusual is None
            and (answer := self.standing.get(bytes((data[6] ^ data[2], data[7] ^ data[3])))) is not None
        ):
            wire = self._wire
            wire.frames += 1
            self.last_seen = wire.poller.now
            if self.outbox is None:
                self._send_now(answer, _IMPORTANT)
            else:
                self.send_frame(answer, _IMPORTANT)
        elif not data:
            self.abort()
        elif not self.state:
            self.feed(self._tail + data if self._tail else data)

    def _hold(self) -> None:
        """Take what came during the receiver's work, if it is little: cheaper than to stop listening."""
        held = b""
        if len(self._tail) < _HELD_BYTES:
            try:
                held = self.sock.recv(_HELD_BYTES)
            except BLOCKED:
                return
            except OSError:
                self.abort()
                return
            self._tail += held
        if not held:  # enough, or the peer's end, which is for `resume`
            self._listen_for(self._interest & ~READABLE)

    def _read_more(self) -> bytes:
        try:
            return self.sock.recv(_NEXT_READ)
        except OSError:  # nothing more, or an error that the next read will repeat
            return b""

    # -- frames in

    def feed(self, data: bytes) -> None:
        """Take `data`, the unparsed tail included; an error in it ends this connection and nothing else."""
        receiver, now = self._receiver, self._wire.poller.now
        if receiver is None:
            return
        self._tail = b""
        try:
            at, frames = self._parse(data, receiver.receive, now)
        except Violation as violation:
            self.close(violation.code)
            return
        except Exception:
            self.fail()
            return
        if frames:  # a peer that only dribbles shows no sign of life
            self.last_seen = now
            self._wire.frames += frames
        if at < len(data) and not self.state:
            self._tail = data[at:]

    def _parse(  # noqa: C901, PLR0912  one loop, for speed
        self, data: bytes, receive: Callable[[bytes, float], bytes | Pause | None], now: float
    ) -> tuple[int, int]:
        """Take frame by frame; answers leave in one send.  Return where it stopped and how many were whole.

        A plain short frame is dealt with in this loop: a call for it would cost as much as parsing it.
        """
        at, end, answers, frames = 0, len(data), b"", 0
        payload: bytes | None
        # The last byte of a frame that wsproto has begun may come alone.
        while at + 1 < end or (at < end and self._unusual is not None):
            if (
                data[at] == BINARY_WHOLE
                and self._unusual is None
                and 0 <= (size := data[at + 1] - 0x80) < SHORT
            ):
                start = at + 6
                stop = start + size
                if stop > end:
                    break
                payload = unmask(data[start:stop], data[at + 2 : start])
                at = stop
            elif data[at] == BINARY_WHOLE and self._unusual is None and (stop := self._middle_end(data, at)):
                payload = unmask(data[at + 8 : stop], data[at + 4 : at + 8])
                at = stop
            else:
                if answers:  # what wsproto answers must not overtake them
                    self.send_frame(answers, _IMPORTANT)
                    answers = b""
                used, payload = self._take_unusual(data, at)
                at += used
                if not used or (self._unusual is not None and self._unusual.missing_bytes):
                    break
            frames += 1
            if payload is not None:
                if (standing := self.standing.get(payload)) is not None:
                    answers += standing
                elif isinstance(answer := receive(payload, now), bytes):
                    answers += encode_frame(answer)
                elif answer is not None:
                    self._is_paused = True
                    break
            if self.state:
                break
        if answers:
            if self.outbox is None and not self.state:
                self._send_now(answers, _IMPORTANT)
            else:
                self.send_frame(answers, _IMPORTANT)
        return at, frames

    def _take_unusual(self, data: bytes, at: int) -> tuple[int, bytes | None]:
        """Take all or a piece of the frame at `at`: how many bytes (0: wait for more), and a message."""
        unusual = self._unusual
        if unusual is None or not unusual.missing_bytes:
            header = parse_header(data, at)
            if header is None:
                return 0, None
            have = len(data) - at
            if header.is_masked and have < header.whole_bytes <= _WAIT_BYTES:
                return 0, None
            limits = self._wire.limits
            if unusual is None and self._is_plain(header) and have >= header.whole_bytes:
                return header.whole_bytes, _payload_of(header, data, at)
            if unusual is None:
                unusual = self._unusual = Unusual(limits.max_frame_bytes, limits.max_message_bytes)
            unusual.begin(header, data[at : at + header.head_bytes])
        self._wire.unusual += 1
        piece = data[at : at + unusual.missing_bytes]
        message, answers, close_code = unusual.feed(piece)
        if close_code is not None:
            self._begin_closing(answers, close_code)
        elif answers:
            self.send_frame(answers, _IMPORTANT)
        if unusual.is_at_rest:
            self._unusual = None
        return len(piece), message

    def _middle_end(self, data: bytes, at: int) -> int:
        """Return where a whole masked frame with a 16-bit length ends; 0: it is none, or it is not plain."""
        if data[at + 1] != MASKED | SHORT or len(data) < at + 8:
            return 0
        size = data[at + 2] << 8 | data[at + 3]
        stop = at + 8 + size
        return stop if SHORT <= size <= self._wire.limits.max_frame_bytes and stop <= len(data) else 0

    def _is_plain(self, header: Header) -> bool:
        return header.is_plain and header.payload_bytes <= self._wire.limits.max_frame_bytes

    # -- frames out

    def send(self, payload: bytes, level: Level) -> None:
        """Send a message, now or when the socket takes it."""
        self.send_frame(encode_frame(payload), level)

    def send_frame(self, frame: bytes, level: Level) -> None:
        """Send encoded bytes, now or when the socket takes them; nothing once closing has begun.

        Overflow: NORMAL is dropped and counted, an IMPORTANT that does not fit evicts.
        """
        if self.state:
            return
        if self.outbox is None:
            self._send_now(frame, level)
            return
        dropped = self.outbox.offer(frame, level)
        if dropped:
            self._wire.dropped_normal["full"] += dropped
        if self.outbox.is_overfull:
            self._evict("overflow")

    def unsent(self, frames: Sequence[tuple[bytes, Level]], sent: int, error: OSError | None) -> None:
        """Go on after a send of `frames` that was not complete: `sent` bytes, or an error.

        Broadcasts call it, too.
        """
        if error is not None and not isinstance(error, BLOCKED):
            normal = sum(level is Level.NORMAL for _, level in frames)
            self._count_gone(Frames(normal, len(frames) - normal))
            self.abort()
            return
        limits, now = self._wire.limits, self._wire.poller.now
        for frame, level in frames:
            if self.outbox is not None:
                self.send_frame(frame, level)
            elif sent >= len(frame):
                sent -= len(frame)
            else:
                self.outbox = Outbox(limits.outbox_soft_bytes, limits.outbox_hard_bytes, now)
                self.outbox.offer(memoryview(frame)[sent:], level)
                self._listen_for(self._interest | WRITABLE)
                self.look_at(now + limits.stall_timeout_s)

    def _send_now(self, frame: bytes, level: Level) -> None:
        try:
            sent = self.sock.send(frame)
        except OSError as exc:
            self.unsent([(frame, level)], 0, exc)
        else:
            if sent != len(frame):
                self.unsent([(frame, level)], sent, None)

    def _flush(self) -> None:
        outbox = self.outbox
        if outbox is None:
            return
        try:
            while (frame := outbox.first()) is not None:
                sent = self.sock.send(frame)
                outbox.sent(sent, self._wire.poller.now)
                if sent < len(frame):
                    return
        except BLOCKED:
            return
        except OSError:
            self.abort()
            return
        self.outbox = None
        self._listen_for(self._interest & ~WRITABLE)
        if self.state:
            self._half_close()

    def _listen_for(self, events: int) -> None:
        if events != self._interest:
            self._interest = events
            self._wire.poller.modify(self.sock.fileno(), events)

    # -- the receiver's work

    def resume(self) -> None:
        """Read again after `Pause`; what had been received already is parsed at once."""
        if not self._is_paused or self.state == CLOSED:
            return
        self._is_paused = False
        if self._farewell is not None:
            self.close(*self._farewell)
            return
        self.last_seen = self._wire.poller.now = trio.current_time()
        self._listen_for(self._interest | READABLE)
        if self._tail and not self.state:
            self.feed(self._tail)

    # -- the end

    def close(self, code: int, reason: str | None = None) -> None:
        """Begin to close with a close frame; the peer has `close_timeout_s` to end it.

        Args:
            code: what is sent and counted.
            reason: text of the frame; None is the code's own.
        """
        if self.state:
            return
        text = CLOSINGS[CloseCode(code)].reason if reason is None else reason
        body = code.to_bytes(2, "big") + text.encode()[:_MAX_REASON_BYTES]
        self._begin_closing(encode_frame(body, CLOSE), code)

    def fail(self) -> None:
        """Close with 1011, and log the exception that is being handled: a defect of ours."""
        self._wire.log.exception("client failed")
        self.close(CloseCode.INTERNAL_ERROR)

    def drain(self, code: int, reason: str) -> None:
        """Close as `close` does, but let the receiver's work under way end and be answered first."""
        if self._is_paused:
            self._farewell = code, reason
        else:
            self.close(code, reason)

    def abort(self, code: int = CloseCode.ABNORMAL) -> None:
        """Close the socket now.  Idempotent; the receiver is told once."""
        if self.state == CLOSED:
            return
        if self.outbox is not None:
            self._count_gone(self.outbox.frames)
        if self.state == OPEN:
            self._wire.count_closed(code)
        self.state = CLOSED
        self._wire.poller.remove(self.sock.fileno())
        self.sock.close()
        self._tail, self._unusual, self.outbox = b"", None, None
        receiver, self._receiver = self._receiver, None  # no cycle is left for the collector
        if receiver is not None:
            receiver.closed(code)

    def _evict(self, why: str) -> None:
        """Send a slow member away; if it reads at all, it learns why."""
        self._wire.evicted[why] += 1
        if self.outbox is not None:
            self._wire.count_dropped("evicted", self.outbox.clear())
        self.close(CloseCode.SLOW_CONSUMER)

    def _count_gone(self, frames: Frames) -> None:
        """Count what the socket did not take before its end; our close frame, the last one, is no loss."""
        important = frames.important - (self.state == CLOSING)
        self._wire.count_dropped("gone", Frames(frames.normal, important))

    def _begin_closing(self, frame: bytes, code: int) -> None:
        if self.state:
            return
        self._wire.count_closed(code)
        self.state, self._unusual, self._tail = CLOSING, None, b""
        self.last_seen = self._wire.poller.now
        self.look_at(self.last_seen + self._wire.limits.close_timeout_s)
        self._is_paused = False  # from here on input is read and thrown away
        self._listen_for(self._interest | READABLE)
        if self._receiver is not None:
            self._receiver.closing()
        if self.outbox is not None:
            dropped = self.outbox.offer(frame, _IMPORTANT)
            self._wire.count_dropped("full", Frames(dropped, 0))
            return
        self._send_now(frame, _IMPORTANT)
        if self.outbox is None:
            self._half_close()

    def _half_close(self) -> None:
        if self.state == CLOSED:
            return
        try:
            end_writing(self.sock)
        except OSError:
            self.abort()


class TlsConnection(Connection):
    """The same over an `ssl.SSLSocket`: what OpenSSL has decrypted already raises no event."""

    __slots__ = ()

    sock: ssl.SSLSocket

    def _read(self) -> None:
        super()._read()
        self._read_pending()

    def resume(self) -> None:
        super().resume()
        self._read_pending()

    def _read_pending(self) -> None:
        while not self.state and not self._is_paused and self.sock.pending():
            super()._read()


def _payload_of(header: Header, data: bytes, at: int) -> bytes:
    """Return the payload of a plain frame that is there as a whole.

    Raises:
        Violation: it is text that is not UTF-8.
    """
    start = at + header.head_bytes
    payload = unmask(data[start : start + header.payload_bytes], data[start - 4 : start])
    if header.first == TEXT_WHOLE:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise Violation(CloseCode.INVALID_PAYLOAD) from None
    return payload
