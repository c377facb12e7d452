"""Consume: one topic and channel from several nsqds, never more on loan than was asked for.

    nsqd --> connection --> _arrived --> arrivals --> receive --> the caller --> finish/requeue --> nsqd

1. RDY is distributed over the connections: together `max_in_flight`, 0 while paused.
2. A loan belongs to its connection and ends with it; what waits in `arrivals` then is not given out.  What
   waits there for long is touched: timed out, it would come again behind all that came after it.
3. When RDY moves from one connection to another, both may be full for a moment.  What would go over
   the bound of `arrivals` is requeued at once and counted.
4. The end: RDY 0, give back what nobody has taken, wait for answers, REQ the rest, CLS.  nsqd would
   otherwise keep it until its time limit.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from runtime.queue.nsq import codec
from runtime.queue.nsq.codec import Message
from runtime.queue.nsq.connection import Connection, Tally
from runtime.queue.nsq.delivery import NsqDelivery
from runtime.queue.nsq.errors import NsqError
from runtime.queue.nsq.link import run_link
from runtime.queue.nsq.lookup import Lookup
from runtime.queue.nsq.options import NsqOptions
from runtime.queue.nsq.placing import shares
from runtime.queue.nsq.statistics import ConsumerStatistics
from schema.names import queue_name_problem

# Deliveries given out without letting other tasks run.
_FAIR: Final = 32
# Arrivals over `max_in_flight`, in multiples of it, while RDY moves between connections.
_SLACK: Final = 4
# Or a sixth of the time limit, if that is less.
_TICK_S: Final = 1.0
# For CLS and its answer, with which nsqd says that it has read all that was written.
_GOODBYE_S: Final = 1.0


class NsqConsumer:
    """A `runtime.queue.Consumer`.  `open_consumer` owns it; it dies with that context.

    Attributes:
        losses: how many subscribed connections have ended otherwise than by our leaving: each may
            have put messages at the tail.
    """

    def __init__(self, topic: str, channel: str, max_in_flight: int, options: NsqOptions) -> None:
        """Make a paused consumer.

        Raises:
            ValueError: topic or channel is no name, or `max_in_flight` is not positive.
        """
        for name in (topic, channel):
            if problem := queue_name_problem(name):
                raise ValueError(problem)
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}")
        self.losses = 0
        self._topic, self._channel = topic, channel
        self._max_in_flight = max_in_flight
        self._options = options
        self._paused = True
        self._closing = False
        self._arrivals: deque[NsqDelivery] = deque()
        self._receivers = trio.lowlevel.ParkingLot()
        self._given_out = 0
        self._loans: dict[Connection, set[NsqDelivery]] = {}
        self._rdy: dict[Connection, int] = {}
        self._turn = 0
        self._answered = trio.Event()
        self._received = self._redelivered = 0
        self._answers: Counter[str] = Counter()
        self._tally = Tally()
        self._lookup = Lookup(options.lookupd, topic, options.lookup_interval_s)
        # Alone in its shield: it must outlive a cancelled body until what is on loan is given back.
        self._life = trio.CancelScope(shield=True)
        self._links: dict[str, trio.CancelScope] = {}

    async def receive(self) -> NsqDelivery:
        """Wait for the next delivery.  Cancellation loses nothing; what ended meanwhile is left out.

        Raises:
            trio.ClosedResourceError: the consumer's context has been left.
        """
        self._given_out += 1
        if self._given_out % _FAIR:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while True:
            while self._arrivals:
                delivery = self._arrivals.popleft()
                if delivery.is_open:
                    return delivery
                self._discard(delivery)
                self.count("stale")
            if self._closing:
                raise trio.ClosedResourceError
            await self._receivers.park()

    def pause(self) -> None:
        """Ask for nothing more; what is on loan stays on loan, and what is on its way still comes."""
        self._paused = True
        self._distribute()

    def resume(self) -> None:
        """Ask for deliveries (again)."""
        self._paused = False
        self._distribute()

    def statistics(self) -> ConsumerStatistics:
        """Return what there is now and was so far."""
        return ConsumerStatistics(
            nsqds=len(self._links),
            connections=len(self._loans),
            on_loan=sum(map(len, self._loans.values())),
            waiting=len(self._arrivals),
            received=self._received,
            redelivered=self._redelivered,
            answers=dict(self._answers),
            too_late=dict(self._tally.too_late),
            connected=self._tally.connected,
            failures=dict(self._tally.failures),
            lookup_failures=dict(self._lookup.failures),
        )

    # -- told by deliveries

    def now(self) -> float:
        return trio.current_time()

    def count(self, what: str) -> None:
        self._answers[what] += 1

    def answered(self, delivery: NsqDelivery, answer: str) -> None:
        self.count(answer)
        self._discard(delivery)

    def _discard(self, delivery: NsqDelivery) -> None:
        self._loans.get(delivery.connection, set()).discard(delivery)
        self._answered.set()

    # -- the connections' side

    async def run(self) -> None:
        """Keep the links to all nsqds until `aclose`."""
        with self._life:
            async with trio.open_nursery() as nursery:
                for address in self._options.nsqd:
                    self._follow(nursery, address)
                nursery.start_soon(self._tick)
                if self._options.lookupd:
                    await self._lookup.run(
                        lambda found, complete: self._found(nursery, found, complete=complete)
                    )

    def _found(self, nursery: trio.Nursery, found: frozenset[str], *, complete: bool) -> None:
        for address in found - self._links.keys():
            self._follow(nursery, address)
        if complete:
            connected = {connection.address for connection in self._loans}
            for address in self._links.keys() - found - connected - set(self._options.nsqd):
                self._links.pop(address).cancel()

    def _follow(self, nursery: trio.Nursery, address: str) -> None:
        scope = self._links[address] = trio.CancelScope()

        async def follow() -> None:
            with scope:
                await run_link(
                    address,
                    self._options,
                    tally=self._tally,
                    serve=self._serve,
                    on_message=self._arrived,
                    on_failure=lambda _: None,
                )

        nursery.start_soon(follow)

    async def _serve(self, connection: Connection) -> None:
        await connection.request(codec.sub(self._topic, self._channel))
        self._loans[connection] = set()
        self._rdy[connection] = 0
        self._distribute()
        try:
            await trio.sleep_forever()
        finally:
            # No await: the loans end with the connection.
            del self._rdy[connection]
            del self._loans[connection]
            self._answered.set()
            self.losses += not self._closing
            self._distribute()

    def _distribute(self) -> None:
        total = 0 if self._paused or self._closing else self._max_in_flight
        limits = [connection.negotiated.max_rdy for connection in self._rdy]
        for connection, share in zip(tuple(self._rdy), shares(total, limits, self._turn), strict=True):
            if share != self._rdy[connection]:
                self._rdy[connection] = share
                connection.write_nowait(codec.rdy(share))

    def _arrived(self, connection: Connection, message: Message) -> None:
        loans = self._loans.get(connection)
        if loans is None:
            return  # read in the turn in which the link was cancelled: it comes again
        delivery = NsqDelivery(message, connection, self)
        self._received += 1
        self._redelivered += message.attempts > 1
        loans.add(delivery)
        if self._closing or len(self._arrivals) >= _SLACK * self._max_in_flight:
            delivery.requeue()
            self.count("returned")
        else:
            self._arrivals.append(delivery)
            self._receivers.unpark()

    def _forget_ended(self) -> None:
        """Drop the loans whose time is over: nobody can answer them any more."""
        for loans in self._loans.values():
            loans.difference_update([delivery for delivery in loans if not delivery.is_open])
        self._answered.set()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(min(_TICK_S, self._options.msg_timeout_s / 6))
            for delivery in self._arrivals:
                delivery.keep()
            self._forget_ended()
            # Fewer deliveries than connections: each gets its turn.
            if self._max_in_flight < len(self._rdy):
                self._turn += 1
                self._distribute()

    # -- the end

    def stop_nowait(self) -> None:
        """Ask for nothing more, and give back at once what nobody has taken."""
        self._closing = True
        self._distribute()
        while self._arrivals:
            delivery = self._arrivals.popleft()
            if delivery.is_open:
                delivery.requeue()
                self.count("returned")
        self._forget_ended()
        self._receivers.unpark_all()

    async def wait_answered(self) -> None:
        """Wait until nothing is on loan."""
        while any(self._loans.values()):
            self._answered = trio.Event()
            await self._answered.wait()

    async def aclose(self) -> None:
        """Give back what is on loan, say goodbye to each nsqd (1 s), and end all tasks.

        A cancelled caller is no reason to keep the messages from others: this goes on, within its second.
        """
        self.stop_nowait()
        for delivery in [delivery for loans in self._loans.values() for delivery in loans]:
            if delivery.is_open:
                delivery.requeue()
                self.count("returned")
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_S):
            async with trio.open_nursery() as nursery:
                for connection in tuple(self._loans):
                    nursery.start_soon(_say_goodbye, connection)
        self._life.cancel()


async def _say_goodbye(connection: Connection) -> None:
    with suppress(NsqError):  # it has gone by itself, which its link counts
        await connection.request(codec.CLS)


@asynccontextmanager
async def open_consumer(
    topic: str, channel: str, *, max_in_flight: int, options: NsqOptions
) -> AsyncIterator[NsqConsumer]:
    """Open a consumer that starts paused, on `options.nsqd` and what `options.lookupd` know.

    Leaving the context gives back what nobody has taken, waits up to `drain_deadline_s` for answers to
    the rest, and gives back that too.  Cancelled, or with an error in its body, it does not wait for
    answers, and is gone within about a second.

    Raises:
        ValueError: topic or channel is no name, or `max_in_flight` is not positive.
    """
    consumer = NsqConsumer(topic, channel, max_in_flight, options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consumer.run)
        try:
            yield consumer
            consumer.stop_nowait()
            with trio.move_on_after(options.drain_deadline_s):
                await consumer.wait_answered()
        finally:
            await consumer.aclose()
