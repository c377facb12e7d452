"""The logic servers as one `client.Logic`, whichever of them can be reached.

    authenticate, publish --> admission --> Placing --> a lane --> rpc.py sends and receives --> settled

1. Every ask is answered within `ask_s`, if only with `Unavailable`; whoever asks needs no scope of its own,
   which would cost as much as all the rest.  Cancelled, an ask that has not left is forgotten; another one
   may be done.
2. An ask that finds no logic server is `Unavailable` after `homeless_s`, long before a deadline that would
   leave its client in the dark.  A publish looks for one when what it is held behind is answered.
3. All that waits is bounded in items and bytes; beyond, `Unavailable` at once.  What was given up counts
   until it has left its place.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from math import inf
from typing import Final

import trio

from conn_server.lanes import Ask, End, Outcome, Tally
from conn_server.placing import GROUPS, OpenLane, Placing, ranked
from runtime.rpc.limits import RpcLimits
from schema.access import BAD_SIGNATURE, Code, Grant, Refused, Unavailable
from schema.message import Message
from schema.names import partition

CLOCK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class LogicOptions:
    """How logic servers are reached; durations in seconds.

    Attributes:
        tls: the client's context; None: cleartext.
        server_name: whom the certificates must name, where it is not the host of the address.
        rpc: bounds of the connections.
        open_s: from the opening of a link to its window.
        stall_s: a link that leaves something unanswered for so long is given up.
        call_s: for one call of a Go logic server.
        ask_s: from an ask to its answer, whatever happens.
        homeless_s: what finds no logic server waits so long for one.
        max_waiting: sign-ins and publishes that wait, for whatever, and...
        max_waiting_bytes: ...bytes of their tokens and bodies.
    """

    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    rpc: RpcLimits = field(default_factory=RpcLimits)
    open_s: float = 3.0
    stall_s: float = 10.0
    call_s: float = 5.0
    ask_s: float = 5.0
    homeless_s: float = 2.0
    max_waiting: int = 65_536
    max_waiting_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LinksStatistics:
    """What there is now, and was since the start.

    Attributes:
        open: lanes that are.
        waiting: sign-ins and publishes on their way, those included that were given up, and...
        waiting_bytes: ...bytes of them.
        homeless: of those, without a lane.
        held: of those, behind what their rooms have unanswered on a lane that is not theirs any more.
        queued: of those, on a lane that has not sent them yet.
        unanswered: of those, sent; that is all of them.
        frames: sent over links.
        calls: of Go logic servers.
        strays: answers to what was not asked.
        moved: asked again elsewhere.
        lost: links that broke.
        not_done: by reason.
    """

    open: int
    waiting: int
    waiting_bytes: int
    homeless: int
    held: int
    queued: int
    unanswered: int
    sign_ins: int
    publishes: int
    frames: int
    calls: int
    strays: int
    moved: int
    lost: int
    not_done: Mapping[str, int]


class _Waiting(Ask):
    """An ask and the one task that waits for it."""

    __slots__ = ("_outcome", "_task", "due")

    def __init__(self, *, token: str | None = None, body: bytes = b"", group: int = 0) -> None:
        super().__init__(token=token, body=body, group=group)
        self._task: trio.lowlevel.Task | None = None
        self._outcome: Outcome | None = None
        self.due = inf

    def settle(self, outcome: Outcome) -> None:
        """Wake who waits, with the first outcome: another one may come before it has run."""
        if self._outcome is not None:
            return
        self._outcome = outcome
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> Outcome:
        """Wait until it is settled; an event of Trio's would cost as much as all the rest."""
        if self._outcome is not None:
            await trio.lowlevel.checkpoint()
        while self._outcome is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._interrupted)
        return self._outcome

    def _interrupted(self, _: Callable[[], object]) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class LogicLinks:
    """A `client.Logic` over all logic servers that can be reached.  Owned by the conn server's app.

    Who runs a link (rpc.py) opens, retires and loses its lane here.

    Attributes:
        tally: where lanes count.
    """

    GAUGES: Final = ("open", "waiting", "waiting_bytes", "homeless", "held", "queued", "unanswered")

    def __init__(self, options: LogicOptions) -> None:
        self.tally = Tally()
        self._options = options
        self._placing = Placing(ranked, self._tell)
        self._asks: dict[_Waiting, None] = {}  # unanswered, the oldest first
        self._changed = trio.lowlevel.ParkingLot()
        self._waiting = self._waiting_bytes = 0
        self._sign_ins = self._publishes = 0
        self._not_done: Counter[str] = Counter()

    @property
    def is_open(self) -> bool:
        """Whether anybody can be asked now."""
        return bool(self._placing.lanes)

    async def wait_changed(self) -> None:
        """Wait until a lane opens or goes; for whoever shows `is_open`."""
        await self._changed.park()

    async def authenticate(self, token: str) -> Grant:
        """Return what `token` allows.

        Raises:
            Refused: it is not valid.
            Unavailable: nobody could be asked.
        """
        self._sign_ins += 1
        try:
            ask = _Waiting(token=token)
        except UnicodeEncodeError:  # half a surrogate pair, out of a header; nobody has signed that
            self._not_done["not_signed_in"] += 1
            raise Refused(Code.NOT_SIGNED_IN, BAD_SIGNATURE) from None
        outcome = await self._ask(ask)
        if isinstance(outcome, Grant):
            return outcome
        raise self._failure(outcome)

    async def publish(self, message: Message) -> None:
        """Hand `message` to the queue; return once the queue has it.

        Cancelled, the message may or may not be stored.

        Raises:
            Refused: it will never be taken.
            Unavailable: the queue has not got it.
        """
        self._publishes += 1
        ask = _Waiting(body=message.encode(), group=partition(message.room, GROUPS))
        outcome = await self._ask(ask)
        if outcome is not End.STORED:
            raise self._failure(outcome)

    async def _ask(self, ask: _Waiting) -> Outcome:
        self._admit(ask)
        now = trio.current_time()
        ask.due = now + self._options.ask_s
        self._asks[ask] = None
        try:
            self._placing.place(ask, now)
            return await ask.wait()
        finally:
            ask.given_up = True
            del self._asks[ask]

    def _failure(self, outcome: Outcome) -> Refused | Unavailable:
        """Count and return why an ask was not done; an answer of the other kind says nothing about it."""
        if isinstance(outcome, Refused):
            self._not_done[outcome.code.name.lower()] += 1
            return outcome
        self._not_done["unavailable"] += 1
        if isinstance(outcome, Unavailable):
            return outcome
        return Unavailable("a logic server has mixed up sign-ins and publishes")

    def _admit(self, ask: _Waiting) -> None:
        options = self._options
        full = self._waiting >= options.max_waiting
        if full or self._waiting_bytes + ask.size_bytes > options.max_waiting_bytes:
            self._not_done["busy"] += 1
            raise Unavailable("too much is waiting for the logic servers, try again later")
        self._waiting += 1
        self._waiting_bytes += ask.size_bytes

    def _tell(self, ask: Ask, outcome: Outcome) -> None:
        """Let go of `ask`; who had given it up has still held its place."""
        assert isinstance(ask, _Waiting)  # noqa: S101  it gets no others
        self._waiting -= 1
        self._waiting_bytes -= ask.size_bytes
        ask.settle(outcome)

    # -- the side of those who run the links

    def settle(self, ask: Ask, outcome: Outcome) -> None:
        """Take what became of `ask`; lanes call it."""
        self._placing.settle(ask, outcome, trio.current_time())

    def lane_opened(self, address: str, lane: OpenLane) -> None:
        """Ask `lane` from now on."""
        self._placing.lane_opened(address, lane, trio.current_time())
        self._changed.unpark_all()

    def lane_retired(self, address: str, lane: OpenLane) -> None:
        """Ask `lane` nothing more; what is unanswered on it will be answered."""
        self._placing.lane_retired(address, lane, trio.current_time())
        self._changed.unpark_all()

    def lane_lost(self, address: str, lane: OpenLane) -> None:
        """Ask others what is unanswered on `lane`."""
        self._placing.lane_lost(address, lane, trio.current_time())
        self._changed.unpark_all()

    async def run_clock(self) -> None:
        """Look at the deadlines, so that who has one is told at most `CLOCK_S` late; runs until cancelled."""
        while True:
            await trio.sleep(CLOCK_S)
            self.time_passed(trio.current_time())

    def time_passed(self, now: float) -> None:
        """Tell those who have found no lane for `homeless_s`, or waited for `ask_s`; the clock calls it."""
        self._placing.turn_away(now - self._options.homeless_s)
        for ask in self._overdue(now):
            ask.given_up = True
            ask.settle(Unavailable("no answer from the logic servers in time, try again"))

    def _overdue(self, now: float) -> list[_Waiting]:
        return list(takewhile(lambda ask: ask.due <= now, self._asks))

    def statistics(self) -> LinksStatistics:
        """Return what there is now and was so far."""
        placing, tally = self._placing, self.tally
        return LinksStatistics(
            open=len(placing.lanes),
            waiting=self._waiting,
            waiting_bytes=self._waiting_bytes,
            homeless=placing.homeless,
            held=placing.held,
            queued=placing.queued,
            unanswered=placing.unanswered,
            sign_ins=self._sign_ins,
            publishes=self._publishes,
            frames=tally.frames,
            calls=tally.calls,
            strays=tally.strays,
            moved=placing.moved,
            lost=placing.lost,
            not_done=dict(self._not_done),
        )
