"""What waits for one logic server, and what is under way to it.  Pure.

    add --> queue --> take: a frame of what has gathered --> unanswered --> answered --> settled
                                                                 '--> take_back: the link is lost

Rules
1. Sign-ins and publishes have a queue each; each leaves in the order in which it came.
2. A queue has at most two batches unanswered, one that logic works on and one that hides the way there and
   back; what comes meanwhile makes the next one.  The busier, the larger the batches.
3. Together they stay within the window that logic has announced, in items and in bytes.
4. An ask that was given up before it left is forgotten; after that it is answered like any other.
5. Every ask that was added is settled once, or taken back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from schema.access import Code, Grant, Refused, Unavailable
from schema.proto.logic_pb2 import LinkReply, LinkRequest


class End(Enum):
    """How an ask ends that brings nothing back.

    Attributes:
        STORED: a publish: the queue has it.
        FORGOTTEN: it was given up, and is not asked (again): nobody waits for an answer.
    """

    STORED = "stored"
    FORGOTTEN = "forgotten"


Outcome: TypeAlias = Grant | End | Refused | Unavailable
"""What became of an ask."""

MAX_BATCH_ITEMS: Final = 256
MAX_BATCH_BYTES: Final = 256 * 1024
_BATCHES: Final = 2
_REFUSALS: Final = frozenset(Code) - {Code.OK, Code.UNAVAILABLE}


class Ask:
    """One sign-in or publish on its way.  Owned by whoever waits for it.

    Attributes:
        token: of a sign-in; None: a publish.
        body: of a publish.
        group: publishes of one group keep their order.
        size_bytes: what it counts in the window.
        moves: how often it was taken back from a lost link.
        given_up: nobody waits for it any more.
    """

    __slots__ = ("batch", "body", "given_up", "group", "moves", "size_bytes", "token")

    def __init__(self, *, token: str | None = None, body: bytes = b"", group: int = 0) -> None:
        self.token = token
        self.body = body
        self.group = group
        self.size_bytes = len(body) if token is None else len(token.encode())
        self.moves = 0
        self.given_up = False
        self.batch: _Batch | None = None


Settle: TypeAlias = Callable[[Ask, Outcome], None]


class _Batch:
    """The asks of one kind that left in one frame; `sent_at` is the caller's time."""

    __slots__ = ("left", "queue", "sent_at")

    def __init__(self, queue: _Queue, sent_at: float) -> None:
        self.queue = queue
        self.sent_at = sent_at
        self.left = 0


class _Queue:
    """The asks of one kind that wait for their turn, and their batches that are unanswered."""

    __slots__ = ("asks", "batches")

    def __init__(self) -> None:
        self.asks: deque[Ask] = deque()
        self.batches: list[_Batch] = []


@dataclass(slots=True)
class Tally:
    """Frames that left, calls of Go logic servers, and answers to what was not asked; of all lanes."""

    frames: int = 0
    calls: int = 0
    strays: int = 0


class Lane:
    """The state of one link.  Owned by the task that runs the link.

    Args:
        window: what may be unanswered.
        tally: where it counts.
        settle: called once for each ask that is answered or forgotten.
        wake: called when there may be something to send.
    """

    def __init__(
        self, window: LinkReply.Window, tally: Tally, settle: Settle, wake: Callable[[], None]
    ) -> None:
        self._items_left = window.items
        self._bytes_left = self._window_bytes = window.bytes
        self._tally = tally
        self._settle = settle
        self._wake = wake
        self._sign_ins = _Queue()
        self._publishes = _Queue()
        self._unanswered: dict[int, Ask] = {}
        self._id = 0

    @property
    def queued(self) -> int:
        """How many wait for their turn."""
        return len(self._sign_ins.asks) + len(self._publishes.asks)

    @property
    def unanswered(self) -> int:
        """How many are under way."""
        return len(self._unanswered)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is unanswered."""
        return not (self._unanswered or self.queued)

    def oldest(self) -> float | None:
        """Return when the batch left that has been unanswered longest; None: there is none."""
        batches = (*self._sign_ins.batches[:1], *self._publishes.batches[:1])
        return min((batch.sent_at for batch in batches), default=None)

    def add(self, ask: Ask) -> None:
        """Put `ask` at the end of its queue, which is bounded by whoever admits asks."""
        if ask.size_bytes > self._window_bytes:
            self._settle(ask, Refused(Code.TOO_LARGE, "larger than what a logic server takes at a time"))
            return
        (self._publishes if ask.token is None else self._sign_ins).asks.append(ask)
        self._wake()

    def take(self, now: float) -> LinkRequest | None:
        """Return the next frame, None while nothing waits or may leave."""
        request = LinkRequest()
        for number, ask in self._leave(self._sign_ins, now):
            request.sign_ins.add(id=number, token=ask.token or "")
        for number, ask in self._leave(self._publishes, now):
            request.publishes.add(id=number, body=ask.body)
        if not request.sign_ins and not request.publishes:
            return None
        self._tally.frames += 1
        return request

    def _leave(self, queue: _Queue, now: float) -> Iterator[tuple[int, Ask]]:
        """Take what may leave out of `queue`, with its ids."""
        if len(queue.batches) >= _BATCHES:
            return
        asks, batch, size_bytes = queue.asks, _Batch(queue, now), 0
        while asks and self._items_left and batch.left < MAX_BATCH_ITEMS and size_bytes < MAX_BATCH_BYTES:
            ask = asks[0]
            if ask.given_up:
                self._settle(asks.popleft(), End.FORGOTTEN)
                continue
            if ask.size_bytes > self._bytes_left:
                break
            asks.popleft()
            self._items_left -= 1
            self._bytes_left -= ask.size_bytes
            size_bytes += ask.size_bytes
            self._id += 1
            self._unanswered[self._id] = ask
            ask.batch = batch
            batch.left += 1
            yield self._id, ask
        if batch.left:
            queue.batches.append(batch)

    def answered(self, reply: LinkReply) -> None:
        """Settle what `reply` answers; an answer to what was not asked is counted and ignored."""
        for number in reply.stored:
            self._answer(number, End.STORED)
        for granted in reply.granted:
            self._answer(granted.id, Grant.of_reply(granted.grant))
        for not_done in reply.not_done:
            self._answer(not_done.id, _verdict(not_done))

    def _answer(self, number: int, outcome: Outcome) -> None:
        ask = self._unanswered.pop(number, None)
        if ask is None or ask.batch is None:
            self._tally.strays += 1
            return
        self._items_left += 1
        self._bytes_left += ask.size_bytes
        batch, ask.batch = ask.batch, None
        batch.left -= 1
        if not batch.left:
            batch.queue.batches.remove(batch)
        self._settle(ask, outcome)

    def take_queued(self) -> list[Ask]:
        """Give back what has not left, in order: nothing more may be asked here."""
        asks = [*self._sign_ins.asks, *self._publishes.asks]
        self._sign_ins.asks.clear()
        self._publishes.asks.clear()
        return asks

    def take_back(self) -> list[Ask]:
        """Give back everything, in order: the link is lost."""
        asks = [*self._unanswered.values(), *self.take_queued()]
        for ask in asks:
            ask.batch = None
        self._unanswered.clear()
        return asks


class UnaryLane:
    """The same for a Go logic server, which takes one ask per call: `width` calls at a time.

    A group keeps to one of them, so that its publishes are called one after the other.
    """

    def __init__(self, width: int, tally: Tally, settle: Settle, wake: Callable[[], None]) -> None:
        self._queues: list[deque[Ask]] = [deque() for _ in range(width)]
        self._calling: dict[int, Ask] = {}
        self._tally = tally
        self._settle = settle
        self._wake = wake
        self._turn = 0

    @property
    def queued(self) -> int:
        """How many wait for their turn."""
        return sum(map(len, self._queues))

    @property
    def unanswered(self) -> int:
        """How many are under way."""
        return len(self._calling)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is unanswered."""
        return not self._calling and not any(self._queues)

    def add(self, ask: Ask) -> None:
        """Put `ask` at the end of a queue, which is bounded by whoever admits asks."""
        if ask.token is not None:
            self._turn += 1
        place = ask.group if ask.token is None else self._turn
        self._queues[place % len(self._queues)].append(ask)
        self._wake()

    def take(self, number: int) -> Ask | None:
        """Return what caller `number` is to do next, None: nothing waits."""
        queue = self._queues[number]
        while queue:
            ask = queue.popleft()
            if not ask.given_up:
                self._tally.calls += 1
                self._calling[number] = ask
                return ask
            self._settle(ask, End.FORGOTTEN)
        return None

    def answered(self, number: int, outcome: Outcome) -> None:
        """Settle what caller `number` has done."""
        self._settle(self._calling.pop(number), outcome)

    def take_queued(self) -> list[Ask]:
        """Give back what has not left, the order of each group kept."""
        asks = [ask for queue in self._queues for ask in queue]
        for queue in self._queues:
            queue.clear()
        return asks

    def take_back(self) -> list[Ask]:
        """Give back everything, the order of each group kept: the connection is lost.

        A publish under way may be stored, and where Go servers are no second copy would be told apart
        from it: its sender decides about another try.
        """
        called = list(self._calling.values())
        self._calling.clear()
        for ask in called:
            if ask.token is None:
                self._settle(ask, Unavailable("the logic server was lost, it may be stored"))
        return [*(ask for ask in called if ask.token is not None), *self.take_queued()]


def _verdict(not_done: LinkReply.NotDone) -> Refused | Unavailable:
    """Return what a logic server has said; a code that is no refusal that we know is one all the same."""
    if not_done.code == Code.UNAVAILABLE:
        return Unavailable(not_done.text)
    if not_done.code in _REFUSALS:
        return Refused(Code(not_done.code), not_done.text)
    return Refused(Code.BAD_REQUEST, not_done.text)
