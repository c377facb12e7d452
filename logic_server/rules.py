"""What logic allows: joining at all, what a message may be, and how fast a user may publish.  Pure.

Rules
1. `now` is an argument: seconds from any origin, never going back.
2. What a single token allows is in its `Grant`, which conn servers enforce; what holds for everybody
   and every way in is decided here.
3. A user's rate is one number: when, at one message per interval, the next is due (the generic cell
   rate algorithm, ITU-T I.371).  A user whose next is due already needs no entry.
4. Nothing costs more than O(1): each message that is let through looks at the two entries that
   were changed longest ago.
5. Every refusal is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from schema.access import EVERY_ROOM, Code, Grant, Refused
from schema.envelope import MAX_DATA_BYTES
from schema.message import Message
from schema.names import room_problem

_LOOK_AT: Final = 2  # one entry is made per message, up to two go: what is over shrinks away


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of the rules; durations in seconds.

    Attributes:
        join: rooms that a token without `rooms` may join; a trailing `*` matches any rest; without any
            it is refused.
        max_data_bytes: of one message's data.
        publish_interval_s: between two messages of one user on average; 0 is no limit.
        publish_burst: messages of one user that may come at once.
        max_users: users whose rate is remembered; beyond, the one that published longest ago is
            forgotten, and counted.
    """

    join: tuple[str, ...] = EVERY_ROOM
    max_data_bytes: int = MAX_DATA_BYTES
    publish_interval_s: float = 0.0
    publish_burst: int = 1
    max_users: int = 100_000

    def __post_init__(self) -> None:
        if self.publish_interval_s < 0 or self.publish_burst < 1 or self.max_users < 1:
            raise ValueError(f"not limits: {self}")


@dataclass(frozen=True, slots=True)
class RulesStatistics:
    """Users remembered now; users forgotten too early and refusals (by reason) since the start."""

    users: int
    forgotten: int
    refused: Mapping[str, int]


class Rules:
    """Decides for one logic server.  Owned by it; lives as long."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._due: dict[str, float] = {}  # user -> when the next is due; the last changed is last
        self._forgotten = 0
        self._refused: Counter[str] = Counter()

    def check_join(self, grant: Grant) -> Grant:
        """Return `grant` with the rooms that may be joined where its token names none.

        Raises:
            Refused: FORBIDDEN: there are no such rooms.
        """
        try:
            return grant.within(self._limits.join)
        except Refused:
            self._refused["token_without_rooms"] += 1
            raise

    def check_message(self, message: Message) -> None:
        """Refuse what no room would take, whoever sent it.

        Raises:
            Refused: BAD_REQUEST or TOO_LARGE.
        """
        if (problem := room_problem(message.room)) is not None:
            self._refuse(Code.BAD_REQUEST, "room_name", problem)
        if not message.data:
            self._refuse(Code.BAD_REQUEST, "no_data", "a message needs data")
        if len(message.data) > self._limits.max_data_bytes:
            self._refuse(Code.TOO_LARGE, "too_large", f"data is over {self._limits.max_data_bytes} bytes")

    def check_rate(self, user: str, now: float) -> None:
        """Count one message of `user`, or refuse it; a refused one does not count.

        Raises:
            Refused: TOO_FAST.
        """
        interval_s = self._limits.publish_interval_s
        if not interval_s:
            return
        due = max(self._due.get(user, now), now)
        if due - now > interval_s * (self._limits.publish_burst - 1):
            self._refuse(Code.TOO_FAST, "too_fast", "too many messages, slow down")
        self._due.pop(user, None)
        self._make_place(now)
        self._due[user] = due + interval_s

    def statistics(self) -> RulesStatistics:
        """Return what there is now and was so far."""
        return RulesStatistics(len(self._due), self._forgotten, dict(self._refused))

    def _make_place(self, now: float) -> None:
        for _ in range(min(_LOOK_AT, len(self._due))):
            oldest = next(iter(self._due))
            if self._due[oldest] > now:
                break
            del self._due[oldest]
        if len(self._due) >= self._limits.max_users:
            del self._due[next(iter(self._due))]
            self._forgotten += 1

    def _refuse(self, code: Code, reason: str, text: str) -> NoReturn:
        self._refused[reason] += 1
        raise Refused(code, text)
