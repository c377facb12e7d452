"""What was said, what was accepted, and what each member has heard: the books that a run is judged by.  Pure.

Rules
1. A member is owed what was said while it was in and accepted, if it stayed in until the end.
2. Members of a room hear the same order.  A message that came to anybody twice, or later than `LATE_S`
   after it was accepted, was given again by the queue (nsqd puts that at its tail): it is counted, and has
   no place in the order.
3. A message is known by its text: "number room".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise, takewhile
from math import inf

from schema.message import Level

LATE_S = 4.0


@dataclass(slots=True, eq=False)
class Said:
    """One message, as its sender knows it.

    Attributes:
        accepted_at: when the sender was told so, None if it never was.
        outcome: "accepted", or what else the sender was told; "" while it waits.
    """

    number: int
    room: str
    level: Level
    at: float
    accepted_at: float | None = None
    outcome: str = ""

    @property
    def data(self) -> bytes:
        return f"{self.number} {self.room}".encode()


@dataclass(slots=True, eq=False)
class Session:
    """One member from its sign-in to its end.

    Attributes:
        heard: number -> when for the first time, in the order in which they came.
        again: numbers that came once more.
        times: of all that came.
        left_at: None as long as it is in.
    """

    member: str
    room: str
    server: int
    since: float
    left_at: float | None = None
    heard: dict[int, float] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def hears(self, number: int, now: float) -> None:
        self.times.append(now)
        if number in self.heard:
            self.again.append(number)
        else:
            self.heard[number] = now


@dataclass(frozen=True, slots=True)
class Missing:
    """A message that a member is owed."""

    said: Said
    member: str
    server: int


class Ledger:
    """The books of one run.  Owned by the test."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.sessions: list[Session] = []

    def says(self, room: str, level: Level, now: float) -> Said:
        """Open an entry for a message that is about to be said."""
        self.said.append(Said(len(self.said), room, level, now))
        return self.said[-1]

    def enters(self, member: str, room: str, server: int, now: float) -> Session:
        self.sessions.append(Session(member, room, server, now))
        return self.sessions[-1]

    @property
    def accepted(self) -> list[Said]:
        return [said for said in self.said if said.accepted_at is not None]

    def present(self) -> list[Session]:
        """Return the sessions that are in."""
        return [session for session in self.sessions if session.left_at is None]

    def missing(self, *, until: float = inf) -> list[Missing]:
        """Return what members are owed (rule 1) of what was said `until` then, that moment included."""
        owed: dict[str, list[Said]] = defaultdict(list)
        for said in self.accepted:
            if said.at <= until:
                owed[said.room].append(said)
        return [
            Missing(said, session.member, session.server)
            for session in self.present()
            for said in owed[session.room]
            if session.since < said.at and said.number not in session.heard
        ]

    def repeated(self) -> int:
        """Return how often a member has heard something once more."""
        return sum(len(session.again) for session in self.sessions)

    def requeued(self) -> set[int]:
        """Return what the queue has given again (rule 2)."""
        found = {number for session in self.sessions for number in session.again}
        for session in self.sessions:
            for number, at in session.heard.items():
                accepted_at = self.said[number].accepted_at
                if at - (self.said[number].at if accepted_at is None else accepted_at) > LATE_S:
                    found.add(number)
        return found

    def disorder(self) -> int:
        """Return how often a member of a room has heard two messages the other way round than another."""
        without = self.requeued()
        rooms: dict[str, list[Session]] = defaultdict(list)
        for session in self.sessions:
            rooms[session.room].append(session)
        return sum(_disorder(sessions, without) for sessions in rooms.values())

    def silence(self, since: float, until: float) -> float:
        """Return the longest time between `since` and `until` in which somebody who is in heard nothing."""
        return max((_gap(session.times, since, until) for session in self.present()), default=0.0)

    def first_heard(self, since: float) -> float | None:
        """Return when everybody who is in had heard something said after `since`; None: not yet."""
        latest = since
        for session in self.present():
            lately = takewhile(lambda entry: entry[1] > since, reversed(session.heard.items()))
            new = [at for number, at in lately if self.said[number].at > since]
            if not new:
                return None
            latest = max(latest, min(new))
        return latest


def _disorder(sessions: Sequence[Session], without: set[int]) -> int:
    """Compare all with all, through the places that messages have at each."""
    orders = [[number for number in session.heard if number not in without] for session in sessions]
    unlike = list(dict.fromkeys(map(tuple, orders)))
    return sum(
        sum(1 for _ in _descents(one, other)) for one in unlike for other in unlike if one is not other
    )


def _descents(one: Iterable[int], other: Iterable[int]) -> Iterator[tuple[int, int]]:
    places = {number: place for place, number in enumerate(one)}
    common = [places[number] for number in other if number in places]
    return ((before, after) for before, after in pairwise(common) if after < before)


def _gap(times: Iterable[float], since: float, until: float) -> float:
    within = (time for time in times if since <= time <= until)
    return max(after - before for before, after in pairwise(chain([since], within, [until])))
