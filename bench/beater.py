"""A user who sends heartbeats."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bench.engine import Engine
from bench.user import State, User
from schema.envelope import PONG

Answered = Callable[["Beater", int, int], None]
"""Called with (user, due, now) for each answer."""


class Beater(User):
    """Knows which of its heartbeats are not answered yet, oldest first: answers keep their order."""

    __slots__ = ("_answered", "waiting")

    def __init__(self, engine: Engine, number: int, room: str, answered: Answered) -> None:
        super().__init__(engine, number, room)
        self._answered = answered
        self.waiting: deque[int] = deque()

    def can_act(self) -> bool:
        return self.state is State.SIGNED_IN

    def act(self, due_ns: int) -> None:
        """Send a heartbeat that was due at `due_ns`."""
        self.waiting.append(due_ns)
        self.engine.unanswered += 1
        self.socket.send(self.engine.heartbeat_frame)

    def heard(self, payload: bytes, now: int) -> None:
        if payload == PONG and self.waiting:
            self.engine.unanswered -= 1
            self._answered(self, self.waiting.popleft(), now)
        else:
            self.engine.counts["other_frames"] += 1
