"""One user of a load: connects, signs in, and then does what its workload says."""

from __future__ import annotations

from enum import Enum, auto
from typing import ClassVar

from bench.engine import Engine
from bench.websocket import WebSocket
from clients.python.frames import decode_reply, decode_verdict
from schema.envelope import PackageType
from schema.message import Malformed


class State(Enum):
    """Where a user is."""

    NEW = auto()
    OPENING = auto()
    SIGNED_IN = auto()
    LEAVING = auto()
    ENDED = auto()


class User:
    """One client connection and what it is for.  Owned by its workload.

    Subclasses override `signed_in`, `heard` and `left`, or what is noted.
    """

    __slots__ = ("due_ns", "engine", "number", "room", "socket", "state")
    receive_buffer: ClassVar[int] = 0

    def __init__(self, engine: Engine, number: int, room: str) -> None:
        self.engine = engine
        self.number = number
        self.room = room
        self.state = State.NEW
        self.due_ns = 0
        self.socket: WebSocket = engine.websocket(self)

    def signed_in(self, now: int) -> None:
        """The sign-in was accepted."""

    def heard(self, payload: bytes, now: int) -> None:
        """A message has come, after the sign-in."""

    def left(self, was: State, retry_after_s: float | None) -> None:
        """The connection is closed: refused (it was OPENING), lost (SIGNED_IN) or as wanted (LEAVING)."""

    def note_opening(self, now: int) -> None:
        """Note how long it took to get in."""
        self.engine.span("open").record(now - self.due_ns)

    def start(self, due_ns: int) -> None:
        """Connect; the time until the sign-in counts from `due_ns`."""
        if self.engine.is_closed:
            return
        if self.state is State.ENDED:
            self.socket = self.engine.websocket(self)
        self.due_ns = due_ns
        self.state = State.OPENING
        self.engine.opening += 1
        self.socket.connect(self.engine.source(self.number), self.receive_buffer)

    def leave(self) -> None:
        """Close the connection the polite way."""
        if self.state is State.SIGNED_IN:
            self.engine.signed_in -= 1
            self.engine.leaving += 1
            self.state = State.LEAVING
            self.socket.close()

    def opened(self, now: int) -> None:
        """Sign in; called by the socket."""
        self.socket.send(self.engine.sign_in_frame(self.number, self.room))

    def received(self, payload: bytes, now: int) -> None:
        """Take a message; called by the socket."""
        if self.state is State.SIGNED_IN:
            self.heard(payload, now)
        elif self.state is State.OPENING:
            self._take_sign_in(payload, now)

    def ended(self, why: str, retry_after_s: float | None) -> None:
        """Note the end; called by the socket, once."""
        state, self.state = self.state, State.ENDED
        if state is State.OPENING:
            self.engine.opening -= 1
            self.engine.problems[f"not signed in: {why}"] += 1
        elif state is State.SIGNED_IN:
            self.engine.signed_in -= 1
            self.engine.problems[f"ended: {why}"] += 1
        elif state is State.LEAVING:
            self.engine.leaving -= 1
        self.left(state, retry_after_s)

    def _take_sign_in(self, payload: bytes, now: int) -> None:
        try:
            reply = decode_reply(payload)
            verdict = decode_verdict(reply.data) if reply.type == PackageType.UNKNOWN else None
        except Malformed:
            verdict = None
        if verdict is None:
            self.socket.abort("something else than a sign-in reply")
        elif verdict.code:
            self.socket.abort(f"{verdict.code} {verdict.text}")
        else:
            self.state = State.SIGNED_IN
            self.engine.opening -= 1
            self.engine.signed_in += 1
            self.note_opening(now)
            self.signed_in(now)
