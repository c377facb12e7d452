"""Members of rooms: those who listen, and those who also speak."""

from __future__ import annotations

from collections.abc import Callable

from bench.deliveries import PUSH_MARK, Deliveries
from bench.engine import Engine
from bench.plan import Window
from bench.sequence import Stamp
from bench.user import State, User
from clients.python.frames import decode_reply, decode_verdict, encode_publish, encode_request
from schema.envelope import PackageType
from schema.message import Level, Malformed

SettledBy = Callable[["Speaker"], None]
"""Called when a message was accepted, refused, or came back."""


class Listener(User):
    """A member of a room."""

    __slots__ = ("_deliveries", "_tracker")

    def __init__(self, engine: Engine, number: int, room: str, deliveries: Deliveries) -> None:
        super().__init__(engine, number, room)
        self._deliveries = deliveries
        self._tracker = deliveries.tracker()

    def heard(self, payload: bytes, now: int) -> None:
        if payload[:2] == PUSH_MARK:
            self._deliveries.take(self._tracker, payload, now)
        else:
            self.engine.counts["other_frames"] += 1


class Stalled(User):
    """A member who stops reading, until the load is over.

    The server's goodbye may wait behind what was not read: who was sent away is known after `read_again`.
    """

    __slots__ = ()
    receive_buffer = 4096

    def signed_in(self, now: int) -> None:
        self.engine.counts["stalled"] += 1
        self.socket.stop_reading()

    def left(self, was: State, retry_after_s: float | None) -> None:
        if was is State.SIGNED_IN:
            self.engine.counts["evicted"] += 1


class Speaking:
    """What the speakers of one process share: their counts, and how they speak.

    counts   messages: sent; refused; accepted (in the measured time); unanswered; expected: deliveries of
             what was not refused, if everybody is in
    spans    ack: due -> ACK (version 1); own: due -> own push
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.version = engine.plan.target.version
        self.run = engine.plan.run & 0xFFFFFFFF
        self.ack = engine.span("ack")
        self.own = engine.span("own")
        self.window = Window(0, 0, 0)
        load = engine.plan.load
        self._members = [load.members_of(room) for room in range(load.rooms)]
        self.settled: SettledBy | None = None
        self.messages = 0
        self.accepted = 0
        self.refused = 0
        self.expected = 0

    def sent(self, room: int) -> None:
        """Note a message to a room."""
        self.messages += 1
        self.expected += self._members[room]

    def refuse(self, room: int, why: str) -> None:
        """Note that a message to a room was refused."""
        self.refused += 1
        self.engine.problems[why] += 1
        self.expected -= self._members[room]

    def level(self) -> Level:
        """Draw the level of the next message."""
        important = self.engine.plan.load.important
        return Level.IMPORTANT if self.engine.random.random() < important else Level.NORMAL

    def counts(self) -> dict[str, int]:
        """Return what goes into the outcome."""
        return {
            "messages": self.messages,
            "accepted": self.accepted,
            "refused": self.refused,
            "expected": self.expected,
            "unanswered": self.engine.unanswered,
        }


class Speaker(Listener):
    """A member who publishes; with version 1 it awaits an acknowledgement of each message."""

    __slots__ = ("_numbers", "_speaking", "_waiting")

    def __init__(
        self, engine: Engine, number: int, room: str, deliveries: Deliveries, speaking: Speaking
    ) -> None:
        super().__init__(engine, number, room, deliveries)
        self._speaking = speaking
        self._numbers = 0
        self._waiting: dict[int, int] = {}  # number of a message -> when it was due

    def can_act(self) -> bool:
        return self.state is State.SIGNED_IN

    def act(self, due_ns: int) -> None:
        """Publish a message that was due at `due_ns`."""
        speaking = self._speaking
        self._numbers += 1
        stamp = Stamp(speaking.run, self.number, self._numbers, due_ns)
        data = encode_publish(self.room, speaking.level(), stamp.encode(self.engine.plan.load.size))
        request_id = self._numbers if speaking.version else 0
        self.socket.send_message(encode_request(PackageType.MESSAGE, data, request_id))
        speaking.sent(self._room_number)
        self.engine.unanswered += 1
        self._waiting[self._numbers] = due_ns

    @property
    def _room_number(self) -> int:
        return self.number % self.engine.plan.load.rooms

    def heard(self, payload: bytes, now: int) -> None:
        if payload[:2] != PUSH_MARK:
            self._take_answer(payload, now)
            return
        heard = self._deliveries.take(self._tracker, payload, now)
        for stamp, _ in heard.records:
            if stamp.sender == self.number:
                self._came_back(stamp, now)

    def _came_back(self, stamp: Stamp, now: int) -> None:
        speaking = self._speaking
        if speaking.window.has(stamp.due_ns):
            speaking.own.record(now - stamp.due_ns)
        if not speaking.version and self._waiting.pop(stamp.number, None) is not None:
            self._settle(now, is_accepted=True)

    def _take_answer(self, payload: bytes, now: int) -> None:
        try:
            reply = decode_reply(payload)
            verdict = decode_verdict(reply.data)
        except Malformed:
            self.engine.counts["other_frames"] += 1
            return
        due_ns = self._waiting.pop(reply.id, None) if reply.type == PackageType.ACK else None
        if due_ns is None:
            self.engine.counts["other_frames"] += 1
            return
        if verdict.code:
            self._speaking.refuse(self._room_number, f"refused: {verdict.code} {verdict.text}")
        elif self._speaking.window.has(due_ns):
            self._speaking.ack.record(now - due_ns)
        self._settle(now, is_accepted=not verdict.code)

    def _settle(self, now: int, *, is_accepted: bool) -> None:
        speaking = self._speaking
        self.engine.unanswered -= 1
        if is_accepted and speaking.window.has(now):
            speaking.accepted += 1
        if speaking.settled is not None:
            speaking.settled(self)
