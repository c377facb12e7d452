"""A queue's producer that fails as a test wishes, and what logic is made of in tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio

from logic_server.logic import Logic, make_logic
from logic_server.settings import LogicSettings
from schema.message import Level, Message
from schema.tokens import TokenAuthority

KEY = b"a secret of thirty-two bytes, yes"
NOW = 1_700_000_000.0


class FakeProducer:
    """A `runtime.queue.Producer`: stores at once, unless told otherwise.

    Attributes:
        stored: (topic, body), in order.
        batches: how many bodies each call brought, the failed ones included.
        failures: raised one per call, before anything is stored.
        poison: a body that is refused, and every batch with it.
        gate: a call waits until it is set.
    """

    def __init__(self) -> None:
        self.stored: list[tuple[str, bytes]] = []
        self.batches: list[int] = []
        self.failures: deque[Exception] = deque()
        self.poison: bytes | None = None
        self.gate = trio.Event()
        self.gate.set()

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        self.batches.append(len(bodies))
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.popleft()
        if self.poison in bodies:
            raise ValueError("poison")
        await self.gate.wait()
        self.stored += [(topic, body) for body in bodies]

    @property
    def messages(self) -> list[Message]:
        return [Message.decode(body) for _, body in self.stored]


def message(number: int = 1, room: str = "lobby", data: bytes = b"x", *, origin: int = 7) -> Message:
    """Return a message as a conn server stamps it."""
    return Message(room, Level.NORMAL, data, origin, number, "ann", 1000 + number)


def fake_logic(producer: FakeProducer, settings: LogicSettings | None = None) -> Logic:
    return make_logic(settings or LogicSettings(), TokenAuthority(KEY), producer, unix_now=lambda: NOW)


def token(uid: str = "42") -> str:
    """Return a token that `fake_logic` takes."""
    return TokenAuthority(KEY).issue(uid, NOW)
