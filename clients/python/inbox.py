"""What has arrived and was not read yet: bounded in messages and bytes.  Pure.

Rules
1. Order is kept; what is given away is gone.
2. Over a limit the oldest NORMAL messages are dropped and counted, as a conn server's outbox does.
3. An IMPORTANT message is never dropped: where there is no room left for one, the verdict is OVERFULL,
   and the owner ends the connection rather than lose it silently.
4. An empty inbox takes any message, however large: a limit must not make a message undeliverable.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from clients.python.frames import Received
from schema.message import Level


class Offer(Enum):
    """What became of a message."""

    TAKEN = "taken"
    DROPPED = "dropped"
    OVERFULL = "overfull"


class Inbox:
    """The messages of one connection that the application has not read.  Owned by its client.

    Attributes:
        dropped: NORMAL messages that had to go, since the start.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_messages", "_messages", "dropped")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._messages: deque[Received] = deque()
        self._bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def size_bytes(self) -> int:
        """The data bytes that are held."""
        return self._bytes

    def offer(self, message: Received) -> Offer:
        """Take `message`, at the cost of older NORMAL ones where it must be."""
        while not self._fits(message):
            if not self._drop_oldest_normal():
                if message.level is Level.IMPORTANT:
                    return Offer.OVERFULL
                self.dropped += 1
                return Offer.DROPPED
        self._messages.append(message)
        self._bytes += len(message.data)
        return Offer.TAKEN

    def take_nowait(self) -> Received | None:
        """Return the oldest message, or None."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._bytes -= len(message.data)
        return message

    def _fits(self, message: Received) -> bool:
        if not self._messages:
            return True
        return len(self._messages) < self._max_messages and self._bytes + len(message.data) <= self._max_bytes

    def _drop_oldest_normal(self) -> bool:
        for place, message in enumerate(self._messages):
            if message.level is Level.NORMAL:
                del self._messages[place]
                self._bytes -= len(message.data)
                self.dropped += 1
                return True
        return False
