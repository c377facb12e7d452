"""Back ends that push with `POST /msg`: HTTP/1.1 connections that are kept, on the poller."""

from __future__ import annotations

from collections import Counter, deque
from itertools import cycle
from time import monotonic_ns
from typing import Final
from urllib.parse import urlsplit

from msgspec import DecodeError
from msgspec.json import Decoder

from bench.engine import Engine
from bench.frames import read_head
from bench.sequence import Stamp
from bench.speaker import Speaking
from bench.stream import Stream

SENDER_OFFSET: Final = 1 << 24
"""Numbers of senders from here on are posters, not users."""
_ROOMS: Final = 1 << 12

_read_answer = Decoder(dict[str, object]).decode


class Poster(Stream):
    """One back end.  It has one request under way; what is due meanwhile waits, and its latency counts.

    The server may close the connection after an answer: the next request opens another.
    """

    __slots__ = (
        "_authorization",
        "_came",
        "_host",
        "_is_finished",
        "_is_open",
        "_number",
        "_numbers",
        "_room",
        "_rooms",
        "_speaking",
        "_waiting",
    )

    def __init__(self, engine: Engine, number: int, speaking: Speaking) -> None:
        super().__init__(engine.poller, engine.endpoint)
        self._number = number
        self._speaking = speaking
        self._host = urlsplit(engine.plan.target.url).netloc.rpartition("@")[2]
        self._authorization = engine.token(number)
        self._rooms = cycle(range(engine.plan.load.rooms))
        self._room = 0  # of the request that is under way
        self._numbers: Counter[int] = Counter()  # room -> messages to it
        self._waiting: deque[int] = deque()  # when they were due; the first is under way
        self._came = b""
        self._is_open = False
        self._is_finished = False

    def can_act(self) -> bool:
        return not self._is_finished

    def act(self, due_ns: int) -> None:
        """Post a message that was due at `due_ns`, now or after those before it."""
        self._waiting.append(due_ns)
        self._speaking.engine.unanswered += 1
        if len(self._waiting) == 1:
            self._post_next()

    def finish(self) -> None:
        """Close the connection for good."""
        self._is_finished = True
        self.abort()

    def on_connected(self, now: int) -> None:
        self._is_open = True
        if self._waiting:
            self._post(self._waiting[0])

    def on_end(self, why: str) -> None:
        was_open, self._is_open = self._is_open, False
        self._came = b""
        if self._is_finished or (was_open and not self._waiting):
            return
        # What was under way stays unanswered; what waits behind it is tried on a new connection.
        self._speaking.engine.problems[f"POST /msg: {why}"] += 1
        if self._waiting:
            self._waiting.popleft()
        if was_open:
            self._post_next()
        else:
            self._waiting.clear()

    def on_data(self, data: bytes, now: int) -> None:
        self._came += data
        head, found, body = self._came.partition(b"\r\n\r\n")
        if not found:
            return
        status, headers = read_head(head)
        size = headers.get(b"content-length", b"")
        if not size.isdigit():
            self.abort("an answer without a length")
        elif len(body) >= int(size):
            self._came = body[int(size) :]
            is_last = headers.get(b"connection", b"").lower() == b"close"
            self._take_answer(status, body[: int(size)], now, is_last=is_last)

    def _post_next(self) -> None:
        if not self._waiting:
            return
        if self._is_open:
            self._post(self._waiting[0])
        elif self.sock is None:
            self.connect()

    def _post(self, due_ns: int) -> None:
        speaking = self._speaking
        self._room = room = next(self._rooms)
        self._numbers[room] += 1
        sender = SENDER_OFFSET + self._number * _ROOMS + room
        stamp = Stamp(speaking.run, sender, self._numbers[room], due_ns)
        message = stamp.encode(speaking.engine.plan.load.size).decode()
        body = f"room_id={speaking.engine.room(room)}&msg={message}"
        speaking.sent(room)
        self.send(
            f"POST /msg HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {self._authorization}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )

    def _take_answer(self, status: int, body: bytes, now: int, *, is_last: bool) -> None:
        speaking = self._speaking
        due_ns = self._waiting.popleft()
        speaking.engine.unanswered -= 1
        try:
            answer = _read_answer(body)
        except DecodeError:
            answer = {}
        if status != 200 or answer.get("code") != 1:
            speaking.refuse(self._room, f"POST /msg: {status} {answer.get('msg', '')}")
        else:
            speaking.accepted += speaking.window.has(now)
            if speaking.window.has(due_ns):
                speaking.ack.record(now - due_ns)
        if speaking.engine.plan.load.rate is None and now < speaking.window.end_ns:
            self._waiting.append(monotonic_ns())
            speaking.engine.unanswered += 1
        if is_last:
            waiting, self._waiting = self._waiting, deque()
            self.abort()
            self._waiting = waiting
        self._post_next()
