"""`[token] verify = "local"`: tokens are checked here, with the key; publishes still go to logic.

It saves each sign-in a round trip.  Rooms for tokens that name none (`[rules] join`) are this server's then.
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
        open_rooms: rooms that a token may join which names none itself; a trailing `*` matches any rest.
        unix_now: Unix time in seconds.
    """

    def __init__(
        self,
        tokens: TokenAuthority,
        logic: Publishes,
        open_rooms: tuple[str, ...],
        unix_now: Callable[[], float],
    ) -> None:
        self._tokens = tokens
        self._logic = logic
        self._open_rooms = open_rooms
        self._unix_now = unix_now

    async def authenticate(self, token: str) -> Grant:
        """Return what `token` allows.

        Raises:
            Refused: it is not valid, or there are no rooms for it.
        """
        await trio.lowlevel.checkpoint()
        return self.check(token)

    def check(self, token: str) -> Grant:
        """Do what `authenticate` does, without letting other tasks run."""
        return self._tokens.verify(token, self._unix_now()).within(self._open_rooms)

    async def publish(self, message: Message) -> None:
        """Hand `message` to the logic servers; see `client.Logic`."""
        await self._logic.publish(message)
