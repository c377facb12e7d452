"""The identity of what this node's clients say.  Pure."""

from __future__ import annotations

from collections.abc import Callable

from schema.message import Level, Message


class Origin:
    """Stamps messages with (boot id, number, sender, time).

    A client could forge these fields, so the message is built anew here from what it may say.

    Args:
        boot_id: a random non-zero 64-bit number, new at every start of the process.
        unix_now: Unix time in seconds.
    """

    def __init__(self, boot_id: int, unix_now: Callable[[], float]) -> None:
        self.boot_id = boot_id
        self._unix_now = unix_now
        self._seq = 0

    def stamp(self, room: str, level: Level, data: bytes, sender: str) -> Message:
        """Return the message as the queue gets it."""
        self._seq += 1
        return Message(room, level, data, self.boot_id, self._seq, sender, int(self._unix_now() * 1000))
