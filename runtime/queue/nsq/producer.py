"""Publish: many callers, few MPUBs, one nsqd per topic.

    publish --> Backlog (a line per topic) --> pump of the topic's nsqd --> MPUB --> OK --> publish returns

1. A topic goes to one nsqd, chosen by rendezvous among those not known to be down; when that one is
   lost it goes to the next, and back again later.  Order holds as long as it stays.
2. Batches are natural: what has gathered while earlier ones were on their way.
3. nsqd refuses a batch as a whole.  Its calls are then sent one by one, so that a poisonous body
   fails alone; what was behind it goes again, because nsqd has not looked at it.
4. An unanswered batch of a lost connection may be stored: its calls fail with `Unavailable`, and who
   publishes again may make a duplicate.  We do not do it in the callers' place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from runtime.queue.nsq import codec
from runtime.queue.nsq.backlog import Backlog, Call
from runtime.queue.nsq.codec import MPUB_BYTES, Message
from runtime.queue.nsq.connection import Connection, Tally
from runtime.queue.nsq.errors import CommandRefused, NotDone, NsqError, ProtocolError
from runtime.queue.nsq.link import run_link
from runtime.queue.nsq.options import NsqOptions
from runtime.queue.nsq.placing import choose
from runtime.queue.nsq.statistics import ProducerStatistics
from schema.access import Unavailable
from schema.names import queue_name_problem

# Unanswered MPUBs per connection: one that nsqd works on, and what hides the way there and back.
_WINDOW: Final = 4
# What nsqd says to a body that it would never take.
_POISON: Final = frozenset({"E_BAD_MESSAGE", "E_BAD_BODY"})


class NsqProducer:
    """A `runtime.queue.Producer`.  `open_producer` owns it; it dies with that context."""

    def __init__(self, options: NsqOptions) -> None:
        self._options = options
        self._backlog = Backlog(options.max_batch_bytes)
        self._work = trio.Event()  # replaced when set: there is something to look at
        self._idle = trio.Event()  # replaced when set: nothing is waiting
        self._number = 0
        self._waiting: set[Call] = set()
        self._waiting_bytes = 0
        self._connections: dict[str, Connection] = {}
        self._down: set[str] = set()
        self._homes: dict[str, str | None] = {}  # topic -> address, as long as nobody comes or goes
        self._closing = False
        self._stored = self._batches = self._isolated = self._resent = 0
        self._refused: Counter[str] = Counter()
        self._tally = Tally()

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        """Store all of `bodies` in order, or none; return once nsqd has said so.

        Waits up to `publish_deadline_s`, also while no nsqd is there.  Overflow: with
        `max_waiting_bytes` waiting already, it is refused at once.  When it is cancelled the bodies are
        forgotten if they have not left yet, otherwise they may be stored.

        Raises:
            schema.access.Unavailable: not stored, or not known to be (deadline, connection lost).
            ValueError: the topic is no name, or a body is empty or too long, or all together are.
        """
        if not bodies:
            return await trio.lowlevel.checkpoint()
        settled = trio.Event()
        failure: Exception | None = None

        def settle(reason: Exception | None) -> None:
            nonlocal failure
            failure = reason
            settled.set()

        call = self._admit(topic, bodies, settle)
        try:
            with trio.move_on_after(self._options.publish_deadline_s):
                await settled.wait()
        finally:
            self._forget(call)
        if failure is not None:
            raise failure
        if not settled.is_set():
            raise self._unavailable("deadline", f"not stored within {self._options.publish_deadline_s} s")
        return None

    def statistics(self) -> ProducerStatistics:
        """Return what there is now and was so far."""
        return ProducerStatistics(
            connections=len(self._connections),
            waiting_bytes=self._waiting_bytes,
            stored=self._stored,
            batches=self._batches,
            isolated=self._isolated,
            resent=self._resent,
            refused=dict(self._refused),
            connected=self._tally.connected,
            failures=dict(self._tally.failures),
        )

    def _admit(self, topic: str, bodies: Sequence[bytes], settle: Callable[[Exception | None], None]) -> Call:
        if problem := queue_name_problem(topic):
            raise ValueError(problem)
        for body in bodies:
            if problem := codec.body_problem(body, self._options.max_message_bytes):
                raise ValueError(problem)
        self._number += 1
        call = Call(self._number, topic, bodies, settle)
        if call.size_bytes + MPUB_BYTES > self._options.max_batch_bytes:
            raise ValueError(
                f"{call.size_bytes} bytes to store at once, over {self._options.max_batch_bytes}"
            )
        if self._closing:
            raise self._unavailable("closing", "the producer is closing")
        if self._waiting_bytes + call.size_bytes > self._options.max_waiting_bytes:
            raise self._unavailable("full", f"{self._waiting_bytes} bytes are waiting already")
        self._waiting.add(call)
        self._waiting_bytes += call.size_bytes
        self._backlog.add(call)
        self._kick()
        return call

    def _forget(self, call: Call) -> None:
        call.given_up = True
        self._waiting.remove(call)
        self._waiting_bytes -= call.size_bytes
        if not self._waiting:
            self._idle.set()

    def _unavailable(self, reason: str, text: str) -> Unavailable:
        self._refused[reason] += 1
        return Unavailable(f"queue: {text}")

    def _kick(self) -> None:
        self._work.set()
        self._work = trio.Event()

    # -- the connections' side

    async def run(self) -> None:
        """Keep the links to all nsqds until cancelled."""
        async with trio.open_nursery() as nursery:
            for address in self._options.nsqd:
                nursery.start_soon(self._run_link, address)

    async def _run_link(self, address: str) -> None:
        await run_link(
            address,
            self._options,
            tally=self._tally,
            serve=self._pump,
            on_message=_refuse_message,
            on_failure=self._mark_down,
        )

    def _mark_down(self, address: str) -> None:
        self._connections.pop(address, None)
        self._down.add(address)
        self._homes.clear()
        self._kick()

    async def _pump(self, connection: Connection) -> None:
        address = connection.address
        self._connections[address] = connection
        self._down.discard(address)
        self._homes.clear()
        self._kick()
        while True:
            work = self._work  # taken before looking: whatever comes from here on sets it
            while connection.lost is None and connection.unanswered < _WINDOW:
                await connection.wait_writable()
                calls = self._backlog.take(lambda topic: self._home(topic) == address)
                if not calls:
                    break
                self._send(connection, calls)
            await work.wait()

    def _home(self, topic: str) -> str | None:
        """Return the nsqd of `topic`; one that is still being connected for the first time counts."""
        if topic not in self._homes:
            self._homes[topic] = choose(topic, set(self._options.nsqd) - self._down)
        return self._homes[topic]

    def _send(self, connection: Connection, calls: list[Call]) -> None:
        bodies = [body for call in calls for body in call.bodies]
        self._batches += 1
        connection.request_nowait(
            codec.mpub(calls[0].topic, bodies), lambda answer: self._answered(calls, answer)
        )

    def _answered(self, calls: list[Call], answer: bytes | NsqError) -> None:
        if not isinstance(answer, NsqError):
            for call in calls:
                self._stored += len(call.bodies)
                call.settle(None)
        elif isinstance(answer, NotDone):
            self._resent += len(calls)
            self._backlog.put_back(calls)
        elif isinstance(answer, CommandRefused) and answer.code in _POISON:
            self._isolate(calls, answer)
        else:
            for call in calls:
                if not call.given_up:
                    call.settle(self._unavailable(answer.reason, str(answer)))
        self._kick()

    def _isolate(self, calls: list[Call], answer: CommandRefused) -> None:
        if len(calls) == 1:
            self._refused["poison"] += 1
            calls[0].settle(ValueError(f"nsqd takes no such message: {answer}"))
            return
        self._isolated += len(calls)
        for call in calls:
            call.alone = True
        self._backlog.put_back(calls)

    # -- the end

    async def wait_stored(self) -> None:
        """Take nothing more, and wait until all that was published is stored or refused."""
        self._closing = True
        while self._waiting:
            self._idle = trio.Event()
            await self._idle.wait()

    def close_nowait(self) -> None:
        """Refuse what is still waiting and whatever comes from now on."""
        self._closing = True
        for call in self._backlog.take_all():
            call.settle(self._unavailable("closing", "the producer is closing"))


def _refuse_message(connection: Connection, _: Message) -> None:
    connection.close_nowait(ProtocolError("a message for a producer"))


@asynccontextmanager
async def open_producer(options: NsqOptions) -> AsyncIterator[NsqProducer]:
    """Open a producer on `options.nsqd`.

    Leaving the context waits up to `drain_deadline_s` for what is being stored; cancelled, or with an
    error in its body, it ends at once.  Nothing of it is left afterwards.
    """
    producer = NsqProducer(options)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.run)
            yield producer
            with trio.move_on_after(options.drain_deadline_s):
                await producer.wait_stored()
            nursery.cancel_scope.cancel()
    finally:
        # After the links: what they could not send has come back by now.
        producer.close_nowait()
