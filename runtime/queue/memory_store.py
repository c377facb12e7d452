"""What the embedded queue keeps: messages, who has which on loan, until when.  Pure: `now` is an argument.

1. A topic gives each of its channels every message, in order; while it has none it keeps them for the first.
2. A loan that is not answered by its deadline ends there, and its message goes to the tail; one that was
   requeued goes there after its delay.  Both happen in the order of their times, whenever somebody looks.
3. All messages of all channels together are bounded, those on loan included.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf


@dataclass(eq=False, slots=True)
class Message:
    """One message of one channel."""

    body: bytes
    attempts: int = 0


@dataclass(eq=False, slots=True)
class Loan:
    """A message that somebody has; `holder` is None where nobody will answer."""

    message: Message
    deadline: float
    holder: object | None


@dataclass(slots=True)
class Budget:
    """How much there is, and how much there may be."""

    max_messages: int
    max_bytes: int
    messages: int = 0
    size_bytes: int = 0

    def has_room(self, messages: int, size_bytes: int) -> bool:
        """Say whether so much more may come."""
        return (
            self.messages + messages <= self.max_messages and self.size_bytes + size_bytes <= self.max_bytes
        )

    def add(self, message: Message) -> None:
        """Count one in."""
        self.messages += 1
        self.size_bytes += len(message.body)

    def remove(self, message: Message) -> None:
        """Count one out."""
        self.messages -= 1
        self.size_bytes -= len(message.body)


class Channel:
    """One line of messages.  Owned by its store.

    Attributes:
        queue: what waits to be lent.
        held: holder -> how many it has.
        timed_out: loans that ended without an answer.
    """

    def __init__(self, budget: Budget, msg_timeout_s: float) -> None:
        self.queue: deque[Message] = deque()
        self.held: Counter[object] = Counter()
        self.timed_out = 0
        self._budget = budget
        self._msg_timeout_s = msg_timeout_s
        self._loans: dict[Loan, None] = {}  # by deadline: each new one is later than all before
        self._deferred: list[tuple[float, int, Message]] = []
        self._numbers = count()

    @property
    def on_loan(self) -> int:
        """How many are on loan, also to nobody."""
        return len(self._loans)

    @property
    def deferred(self) -> int:
        """How many wait for their delay."""
        return len(self._deferred)

    @property
    def due(self) -> float:
        """When `settle` has something to do."""
        deadline = next(iter(self._loans)).deadline if self._loans else inf
        return min(deadline, self._deferred[0][0]) if self._deferred else deadline

    def put(self, message: Message) -> None:
        """Take a new message."""
        self._budget.add(message)
        self.queue.append(message)

    def settle(self, now: float) -> None:
        """Put to the tail what is due."""
        while self.due <= now:
            if self._deferred and self._deferred[0][0] == self.due:
                self.queue.append(heappop(self._deferred)[2])
            else:
                loan = next(iter(self._loans))
                self._end(loan)
                self.timed_out += 1
                self.queue.append(loan.message)

    def lend(self, holder: object | None, now: float) -> Loan | None:
        """Lend the first message, if there is one."""
        self.settle(now)
        if not self.queue:
            return None
        message = self.queue.popleft()
        message.attempts += 1
        loan = Loan(message, now + self._msg_timeout_s, holder)
        self._loans[loan] = None
        self.held[holder] += 1
        return loan

    def is_open(self, loan: Loan, now: float) -> bool:
        """Say whether an answer would count."""
        return loan in self._loans and now < loan.deadline

    def finish(self, loan: Loan) -> None:
        """Forget the message of an open loan."""
        self._end(loan)
        self._budget.remove(loan.message)

    def requeue(self, loan: Loan, now: float, delay_s: float = 0.0) -> None:
        """Put the message of an open loan to the tail, after `delay_s`."""
        self._end(loan)
        self.settle(now)
        if delay_s > 0:
            heappush(self._deferred, (now + delay_s, next(self._numbers), loan.message))
        else:
            self.queue.append(loan.message)

    def touch(self, loan: Loan, now: float) -> None:
        """Start the time of an open loan anew."""
        del self._loans[loan]
        loan.deadline = now + self._msg_timeout_s
        self._loans[loan] = None

    def strand(self, loan: Loan) -> None:
        """Take an open loan from its holder, and let it wait for its deadline."""
        self._release(loan)
        loan.holder = None
        self.held[None] += 1

    def loans_of(self, holder: object) -> list[Loan]:
        """Return what `holder` has, the oldest loan first."""
        return [loan for loan in self._loans if loan.holder is holder]

    def lose_in_flight(self) -> int:
        """Forget what is on loan or deferred; return how much that was."""
        lost = [*(loan.message for loan in self._loans), *(message for _, _, message in self._deferred)]
        for message in lost:
            self._budget.remove(message)
        self._loans.clear()
        self._deferred.clear()
        self.held.clear()
        return len(lost)

    def _end(self, loan: Loan) -> None:
        del self._loans[loan]
        self._release(loan)

    def _release(self, loan: Loan) -> None:
        self.held[loan.holder] -= 1
        if not self.held[loan.holder]:
            del self.held[loan.holder]


class Store:
    """All topics and channels.  Owned by a queue; it dies with it, and so does what is in it."""

    def __init__(self, *, max_messages: int, max_bytes: int, msg_timeout_s: float) -> None:
        self.budget = Budget(max_messages, max_bytes)
        self._msg_timeout_s = msg_timeout_s
        self._topics: dict[str, dict[str, Channel]] = {}
        self._backlogs: dict[str, Channel] = {}  # of topics that have no channel yet

    def channel(self, topic: str, name: str) -> Channel:
        """Return a channel; the first of a topic gets what was published before it was there."""
        channels = self._topics.setdefault(topic, {})
        if name not in channels:
            backlog = topic in self._backlogs
            channels[name] = self._backlogs.pop(topic) if backlog else self._new_channel()
        return channels[name]

    def publish(self, topic: str, bodies: Sequence[bytes], now: float) -> list[Channel] | None:
        """Put `bodies` into each channel of `topic` and return those, or put none and return None."""
        channels = list(self._topics.get(topic, {}).values())
        copies = max(1, len(channels))
        if not self.budget.has_room(copies * len(bodies), copies * sum(map(len, bodies))):
            return None
        if not channels:
            channels.append(self._backlogs.setdefault(topic, self._new_channel()))
        for channel in channels:
            channel.settle(now)
            for body in bodies:
                channel.put(Message(body))
        return channels

    def channels(self) -> Iterator[Channel]:
        """Yield all channels, and the lines of topics without any."""
        for channels in self._topics.values():
            yield from channels.values()
        yield from self._backlogs.values()

    def _new_channel(self) -> Channel:
        return Channel(self.budget, self._msg_timeout_s)
