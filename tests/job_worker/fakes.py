"""Fakes that speak the protocols of a job worker's neighbours: a queue, and conn servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

from job_worker.lane import BURST_BATCHES
from schema.access import Code, Refused, Unavailable
from schema.batch import unpack
from schema.message import Level, Message, Push

LOG: Any = structlog.get_logger("test")


class Log:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda text, /, **values: self.lines.append((level, text, values))


def message(number: int, room: str = "r", level: Level = Level.NORMAL, *, origin: int = 7) -> Message:
    return Message(room, level, b"%d" % number, origin, number, "ann", 1_000 + number)


def numbers(push: Push) -> list[int]:
    return [int(record) for record in unpack(push.body)]


class FakeDelivery:
    """A delivery that remembers what was answered, and when it was touched."""

    def __init__(self, body: bytes, attempts: int = 1) -> None:
        self.body = body
        self.attempts = attempts
        self.answer: str | float | None = None
        self.touched_at = trio.current_time()
        self.touched: list[float] = []

    def finish(self) -> None:
        assert self.answer is None, "answered twice"
        self.answer = "finished"

    def requeue(self, delay_s: float = 0.0) -> None:
        assert self.answer is None, "answered twice"
        self.answer = delay_s

    def touch(self) -> None:
        assert self.answer is None, "touched after its answer"
        self.touched_at = trio.current_time()
        self.touched.append(self.touched_at)


class FakeConsumer:
    """A consumer whose deliveries the test puts in; paused, it gives only what was put in before."""

    def __init__(self) -> None:
        self.is_paused = True
        self.deliveries: list[FakeDelivery] = []
        self._waiting: list[FakeDelivery] = []
        self._on_its_way: list[FakeDelivery] = []
        self._receivers = trio.lowlevel.ParkingLot()
        self.max_in_flight = 0

    def put(self, *messages: Message | bytes) -> list[FakeDelivery]:
        added = [FakeDelivery(m if isinstance(m, bytes) else m.encode()) for m in messages]
        self.deliveries += added
        (self._waiting if self.is_paused else self._on_its_way).extend(added)
        self._receivers.unpark_all()
        return added

    @property
    def answers(self) -> list[str | float | None]:
        return [delivery.answer for delivery in self.deliveries]

    @property
    def untaken(self) -> list[FakeDelivery]:
        return self._waiting + self._on_its_way

    async def receive(self) -> FakeDelivery:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._on_its_way:
            await self._receivers.park()
        return self._on_its_way.pop(0)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        self._on_its_way += self._waiting
        self._waiting.clear()
        self._receivers.unpark_all()


class FakeQueue:
    """A queue that opens fake consumers; remembers which, and whether they were closed."""

    def __init__(self) -> None:
        self.consumers: dict[str, FakeConsumer] = {}
        self.closed: list[str] = []

    def open_producer(self) -> Any:
        raise AssertionError("a job worker publishes nothing")

    @asynccontextmanager
    async def open_consumer(
        self, topic: str, channel: str, *, max_in_flight: int
    ) -> AsyncIterator[FakeConsumer]:
        consumer = self.consumers[topic] = FakeConsumer()
        consumer.max_in_flight = max_in_flight
        try:
            yield consumer
        finally:
            self.closed.append(topic)


class FakeConn:
    """A conn server.  `takes_s` for each call; `stall()` leaves calls unanswered, `down()` fails them.

    Args:
        takes_s: how long.
        at_once: batches that it takes of a burst.

    Attributes:
        taken: batches, with when.
        calls: with when, and what was tried.
    """

    def __init__(self, takes_s: float = 0.0, *, at_once: int = BURST_BATCHES) -> None:
        self.takes_s = takes_s
        self.at_once = at_once
        self.taken: list[tuple[float, Push]] = []
        self.calls: list[tuple[float, list[Push]]] = []
        self.refuses: Callable[[Push], bool] = lambda _: False
        self.under_way: dict[str, int] = {}
        self.most_under_way = 0
        self._is_down = False
        self._is_stalled = False

    def stall(self, stalled: bool = True) -> None:
        self._is_stalled = stalled

    def down(self, down: bool = True) -> None:
        self._is_down = down

    async def broadcast(self, pushes: Sequence[Push]) -> Sequence[Refused | None]:
        tried = list(pushes[: self.at_once])
        self.calls.append((trio.current_time(), tried))
        room = pushes[0].room
        assert room not in self.under_way, "two bursts of a room at the same time"
        assert {push.room for push in pushes} == {room}
        self.under_way[room] = 1
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        try:
            if self._is_stalled:
                await trio.sleep_forever()
            await trio.sleep(self.takes_s)
        finally:
            del self.under_way[room]
        if self._is_down:
            raise Unavailable("nobody is there")
        self.taken += [(trio.current_time(), push) for push in tried if not self.refuses(push)]
        return [Refused(Code.BAD_REQUEST, "not this one") if self.refuses(push) else None for push in tried]

    def numbers(self, room: str = "r") -> list[int]:
        return [number for _, push in self.taken if push.room == room for number in numbers(push)]

    def batches(self, room: str = "r") -> list[tuple[float, list[int]]]:
        return [(at, numbers(push)) for at, push in self.taken if push.room == room]
