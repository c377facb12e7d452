"""Which logic server is asked, and what becomes of what was asked when a link is lost.  Pure.

    sign-in    to each open lane by turn
    publish    to the lane that the room's group prefers (rendezvous hash): one room's messages take one
               way and keep their order
    no lane    asks wait, in order, for the first one that opens

Rules
1. A group changes its lane only when nothing of it is unanswered there; what comes meanwhile is held.  That
   goes before waiting for a lane: what is unanswered may come back, and is asked first.
2. When a link is lost, what was unanswered on it is asked again elsewhere, in order, with the same identity:
   a publish may be stored twice then, and copies are told apart by (origin, origin_seq) further on.  After
   more than `MAX_MOVES` lost links an ask is `Unavailable`: it may be what they died of.
3. A lane that is retired keeps what is under way, and gives back what has not left.
4. An ask that was placed is homeless, held, queued or unanswered until its owner is told, once, what became
   of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain
from typing import Final, Protocol

from conn_server.lanes import Ask, End, Outcome, Settle
from schema.access import Unavailable

GROUPS: Final = 64  # how rooms are spread over logic servers; many more than there are servers
MAX_MOVES: Final = 2
NOBODY: Final = "no logic server can be reached, try again"


def ranked(key: str, addresses: Iterable[str]) -> list[str]:
    """Return `addresses` in the order of preference of `key` (rendezvous hash).

    The same for everybody; when an address comes or goes, only keys that it wins or held move.
    """
    return sorted(
        addresses,
        key=lambda address: (blake2b(f"{key}\0{address}".encode(), digest_size=8).digest(), address),
        reverse=True,
    )


class OpenLane(Protocol):
    """What is asked of `Lane` and `UnaryLane` alike."""

    def add(self, ask: Ask) -> None:
        """Put `ask` at the end."""

    def take_queued(self) -> list[Ask]:
        """Give back what has not left, in order."""

    def take_back(self) -> list[Ask]:
        """Give back everything, in order."""

    @property
    def queued(self) -> int:
        """How many wait for their turn."""

    @property
    def unanswered(self) -> int:
        """How many are under way."""


class _Group:
    """Rooms that go the same way.

    Attributes:
        lane: where its unanswered publishes are.
        pending: how many those are, queued ones included.
        held: what waits for them, because the next lane is another one, or none is open yet.
    """

    __slots__ = ("held", "key", "lane", "pending", "preferred")

    def __init__(self, number: int) -> None:
        self.key = str(number)
        self.lane: OpenLane | None = None
        self.preferred: OpenLane | None = None  # as long as no lane comes or goes
        self.pending = 0
        self.held: deque[Ask] = deque()


class Placing:
    """The ways to all logic servers.  Owned by `LogicLinks`.

    Args:
        rank: (key, addresses) -> the addresses as the key prefers them, best first.
        tell: called once for each ask, with what became of it.

    Attributes:
        moved: asks that were placed a second time.
        lost: links that were lost with everything on them.
    """

    def __init__(self, rank: Callable[[str, Iterable[str]], list[str]], tell: Settle) -> None:
        self._rank = rank
        self._tell = tell
        self._lanes: dict[str, OpenLane] = {}
        self._by_turn: list[OpenLane] = []
        self._retired: set[OpenLane] = set()
        self._groups = [_Group(number) for number in range(GROUPS)]
        self._homeless: deque[tuple[float, Ask]] = deque()  # since when
        self._turn = 0
        self.moved = self.lost = 0

    @property
    def lanes(self) -> Mapping[str, OpenLane]:
        """The open lanes by address."""
        return self._lanes

    @property
    def homeless(self) -> int:
        """How many asks have found no lane."""
        return len(self._homeless)

    @property
    def held(self) -> int:
        """How many asks wait for what was asked before them on another lane."""
        return sum(len(group.held) for group in self._groups)

    @property
    def queued(self) -> int:
        """How many asks wait for their turn on a lane."""
        return sum(lane.queued for lane in self._all_lanes())

    @property
    def unanswered(self) -> int:
        """How many asks are under way, on retired lanes as well."""
        return sum(lane.unanswered for lane in self._all_lanes())

    def place(self, ask: Ask, now: float) -> None:
        """Give `ask` to a lane, or let it wait for one."""
        if ask.token is None:
            self._place_in_group(self._groups[ask.group], ask, now)
        elif self._lanes:
            self._turn += 1
            self._by_turn[self._turn % len(self._by_turn)].add(ask)
        else:
            self._homeless.append((now, ask))

    def _place_in_group(self, group: _Group, ask: Ask, now: float) -> None:
        wanted = group.preferred
        if wanted is None and self._lanes:
            wanted = group.preferred = self._lanes[self._rank(group.key, self._lanes)[0]]
        if group.held or (group.pending and group.lane is not wanted):
            group.held.append(ask)
        elif wanted is None:
            self._homeless.append((now, ask))
        else:
            group.lane = wanted
            group.pending += 1
            wanted.add(ask)

    def settle(self, ask: Ask, outcome: Outcome, now: float) -> None:
        """Take what became of an ask that a lane had."""
        self._tell(ask, outcome)
        if ask.token is None:
            group = self._groups[ask.group]
            group.pending -= 1
            if group.held and not group.pending:
                held, group.held = group.held, deque()
                self._place_all(held, now)

    def lane_opened(self, address: str, lane: OpenLane, now: float) -> None:
        """Ask `lane` from now on, first what has found none."""
        self._lanes[address] = lane
        self._note_change()
        homeless, self._homeless = self._homeless, deque()
        self._place_all((ask for _, ask in homeless), now)

    def lane_retired(self, address: str, lane: OpenLane, now: float) -> None:
        """Ask `lane` nothing more; what is unanswered on it will be answered."""
        if self._lanes.get(address) is lane:
            del self._lanes[address]
            self._retired.add(lane)
            self._note_change()
            self._place_again(lane.take_queued(), now)

    def lane_lost(self, address: str, lane: OpenLane, now: float) -> None:
        """Ask others what is unanswered on `lane`; without effect on one that has nothing left."""
        if self._lanes.get(address) is lane:
            self.lost += 1
            del self._lanes[address]
            self._note_change()
        self._retired.discard(lane)
        asks = lane.take_back()
        for ask in asks:
            ask.moves += 1
        self._place_again(asks, now)

    def turn_away(self, before: float) -> None:
        """Settle those who have found no lane since `before` or longer."""
        while self._homeless and self._homeless[0][0] <= before:
            self._tell(self._homeless.popleft()[1], Unavailable(NOBODY))

    def _all_lanes(self) -> Iterator[OpenLane]:
        return chain(self._lanes.values(), self._retired)

    def _note_change(self) -> None:
        self._by_turn = list(self._lanes.values())
        for group in self._groups:
            group.preferred = None

    def _place_all(self, asks: Iterable[Ask], now: float) -> None:
        for ask in asks:
            if ask.given_up:
                self._tell(ask, End.FORGOTTEN)
            else:
                self.place(ask, now)

    def _place_again(self, asks: list[Ask], now: float) -> None:
        """Place `asks` elsewhere, before what is held behind them."""
        behind: list[deque[Ask]] = []
        for ask in asks:
            if ask.token is None:
                group = self._groups[ask.group]
                group.pending -= 1
                if group.held:
                    behind.append(group.held)
                    group.held = deque()
        for ask in asks:
            if ask.given_up:
                self._tell(ask, End.FORGOTTEN)
            elif ask.moves > MAX_MOVES:
                self._tell(ask, Unavailable("several logic servers were lost with it, it may be stored"))
            else:
                self.moved += 1
                self.place(ask, now)
        for held in behind:
            self._place_all(held, now)
