"""`[token] verify = "local"`: tokens are checked here, with the key; publishes still go to logic.

It saves each sign-in a round trip.  What logic knows beyond the token, rooms for tokens that name none
(`[rules] join` there), does not hold then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from schema.access import Grant
from schema.message import Message
from schema.tokens import TokenAuthority


class Publishes(Protocol):
    """Who takes messages."""

    async def publish(self, message: Message) -> None:
        """Hand `message` to the queue; see `client.Logic`."""


class LocalTokens:
    """A `client.Logic` that asks nobody about tokens.  Owned by the conn server's app.

    Args:
        tokens: with the key that logic servers check with.
        logic: takes what is published.
        unix_now: Unix time in seconds.
    """

    def __init__(self, tokens: TokenAuthority, logic: Publishes, unix_now: Callable[[], float]) -> None:
        self._tokens = tokens
        self._logic = logic
        self._unix_now = unix_now

    async def authenticate(self, token: str) -> Grant:
        """Return what `token` allows.

        Raises:
            Refused: it is not valid.
        """
        await trio.lowlevel.checkpoint()
        return self._tokens.verify(token, self._unix_now())

    async def publish(self, message: Message) -> None:
        """Hand `message` to the logic servers; see `client.Logic`."""
        await self._logic.publish(message)
