"""Logic as a conn server sees it: is this token good, and does the queue have this message.

In the all-in-one conn calls it in memory, otherwise through rpc.py.  Every decision is made by a pure
part (tokens, rules); only `Publisher` waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Final

import trio

from logic_server.publish import Publisher, PublishOptions, PublishStatistics
from logic_server.rules import Limits, Rules, RulesStatistics
from logic_server.settings import LogicSettings
from runtime.queue import Producer
from schema.access import Grant, Refused, Unavailable
from schema.message import Message
from schema.tokens import TokenAuthority, TokenStatistics

_TURN: Final = 16  # tokens between two checkpoints: half a millisecond


@dataclass(frozen=True, slots=True)
class LogicStatistics:
    """The statistics of the three parts."""

    GAUGES: ClassVar = ("publish_waiting", "publish_waiting_bytes", "rules_users")

    tokens: TokenStatistics
    rules: RulesStatistics
    publish: PublishStatistics


class Logic:
    """One logic server's decisions.  Owned by its app; holds no task and no socket.

    Args:
        tokens: verifies.
        rules: what else must hold.
        publisher: stores.
        unix_now: Unix time in seconds, by which tokens are judged.
        clock: seconds that never go back, by which rates are.
    """

    def __init__(
        self,
        tokens: TokenAuthority,
        rules: Rules,
        publisher: Publisher,
        *,
        unix_now: Callable[[], float],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._tokens = tokens
        self._rules = rules
        self._publisher = publisher
        self._unix_now = unix_now
        self._clock = clock

    async def authenticate(self, token: str) -> Grant:
        """Return what `token` allows.

        Raises:
            Refused: NOT_SIGNED_IN where it is not valid, FORBIDDEN where it should name rooms.
        """
        await trio.lowlevel.checkpoint()
        return self._grant(token)

    async def authenticate_many(self, tokens: Sequence[str]) -> list[Grant | Refused]:
        """Return for each of `tokens` what it allows, or why it is refused."""
        verdicts: list[Grant | Refused] = []
        for number, token in enumerate(tokens):
            if number % _TURN == 0:
                await trio.lowlevel.checkpoint()
            try:
                verdicts.append(self._grant(token))
            except Refused as refusal:
                verdicts.append(refusal)
        return verdicts

    async def publish(self, message: Message) -> None:
        """Hand a message of one of our conn servers to the queue; return once the queue has it.

        Waits up to the publisher's deadline.  When it is cancelled the message may or may not be
        stored.

        Raises:
            Refused: it will never be taken, or not at this rate.
            Unavailable: the queue has not got it.
        """
        self._check(message, self._clock())
        await self._publisher.publish(message)

    async def publish_many(
        self, messages: Sequence[Message], *, deadline: float = inf
    ) -> list[Refused | Unavailable | None]:
        """Do the same for several, whose order is kept; return for each why it is not stored, or None.

        Waits until `deadline` (Trio's time) or the publisher's, whichever is sooner.
        """
        now = self._clock()
        verdicts: list[Refused | Unavailable | None] = []
        fitting: list[Message] = []
        for message in messages:
            try:
                self._check(message, now)
            except Refused as refusal:
                verdicts.append(refusal)
            else:
                verdicts.append(None)
                fitting.append(message)
        stored = iter(await self._publisher.publish_many(fitting, deadline=deadline))
        return [next(stored) if refusal is None else refusal for refusal in verdicts]

    async def publish_foreign(self, message: Message) -> None:
        """The same for a message of a Go conn server (unary PushMsg), which knows no senders.

        What claims to be its identity is a client's invention and is dropped: fields from 10 on are
        passed through by a Go conn server as the client sent them (wire part 2).

        Raises:
            Refused: it will never be taken.
            Unavailable: the queue has not got it.
        """
        self._rules.check_message(message)
        await self._publisher.publish(replace(message, origin=0, origin_seq=0, sender="", sent_at_ms=0))

    def statistics(self) -> LogicStatistics:
        """Return what there is now and was so far."""
        return LogicStatistics(
            self._tokens.statistics(), self._rules.statistics(), self._publisher.statistics()
        )

    def _grant(self, token: str) -> Grant:
        return self._rules.check_join(self._tokens.verify(token, self._unix_now()))

    def _check(self, message: Message, now: float) -> None:
        self._rules.check_message(message)
        self._rules.check_rate(message.sender, now)


def make_logic(
    settings: LogicSettings, tokens: TokenAuthority, producer: Producer, *, unix_now: Callable[[], float]
) -> Logic:
    """Return the decisions as `settings` want them.

    Args:
        settings: of a logic server; its addresses do not matter here.
        tokens: made with the key that conn servers' clients are given tokens by.
        producer: of the queue; its owner closes it.
        unix_now: Unix time in seconds.
    """
    said = settings.rules
    limits = Limits(
        join=said.join,
        max_data_bytes=said.max_data_bytes,
        publish_interval_s=1 / said.publish_rate if said.publish_rate else 0.0,
        publish_burst=said.publish_burst,
    )
    options = PublishOptions(
        topic=settings.nsq.topic,
        partitions=settings.nsq.partitions,
        deadline_s=settings.nsq.publish_timeout_s,
    )
    return Logic(tokens, Rules(limits), Publisher(producer, options), unix_now=unix_now)
