"""A push to every member of a room on this node.

Encoded once per client generation, and the same bytes go to every member.  A broadcast never waits
for a member: what a socket does not take at once goes to that member's outbox, which is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import trio

from conn_server.connection import Connection
from conn_server.frames import encode_frame
from conn_server.rooms import Rooms
from schema.envelope import encode_push
from schema.message import Level, Push

_CHUNK_MEMBERS = 256  # about 2 ms of sending between two checkpoints


@dataclass(frozen=True, slots=True)
class BroadcasterStatistics:
    """What was broadcast, and to how many members in all."""

    pushes: int
    pushes_without_members: int
    frames: int


class _Sending(NamedTuple):
    """The members of one client generation, and their bytes."""

    members: list[Connection]
    frame: bytes


class Broadcaster:
    """Sends pushes one after the other.  Owned by the conn server's app, for all who push.

    Large rooms are sent to in chunks with a checkpoint between them, so that heartbeats get their
    turn; the fair lock keeps two pushes from interleaving, which would show members another order.
    """

    def __init__(self, rooms: Rooms[Connection]) -> None:
        self._rooms = rooms
        self._turn = trio.Lock()
        self._pushes = 0
        self._without_members = 0
        self._frames = 0

    async def broadcast(self, push: Push) -> int:
        """Send `push` to the members that its room has now; return how many there were.

        Who joins while it is being sent does not get it, who leaves gets nothing more.  Cancelling
        it before its turn sends nothing; once begun it is sent to all (it never waits for a peer).
        A small room is sent to at once, without a checkpoint: whoever calls in a loop has one of its own.
        """
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            self._pushes += 1
            sendings = self._prepare(push)
            count = sum(len(sending.members) for sending in sendings)
            if not count:
                self._without_members += 1
            elif count <= _CHUNK_MEMBERS:
                for sending in sendings:
                    self._send(sending.members, sending.frame, push.level)
            else:
                with trio.CancelScope(shield=True):
                    await self._send_in_chunks(push, sendings)
            return count
        finally:
            self._turn.release()

    def _prepare(self, push: Push) -> list[_Sending]:
        """Encode `push` for each client generation in its room."""
        members = self._rooms.members(push.room)
        versions = set(members.values())
        if len(versions) == 1:  # nearly always, and a list is made much faster than looked through
            groups = [(version, list(members)) for version in versions]
        else:
            groups = [
                (want, [one for one, version in members.items() if version == want]) for want in versions
            ]
        return [_Sending(group, encode_frame(encode_push(push, version))) for version, group in groups]

    async def _send_in_chunks(self, push: Push, sendings: list[_Sending]) -> None:
        departures = self._rooms.departures
        for sending in sendings:
            for start in range(0, len(sending.members), _CHUNK_MEMBERS):
                chunk = sending.members[start : start + _CHUNK_MEMBERS]
                if self._rooms.departures != departures:
                    present = self._rooms.members(push.room)
                    chunk = [connection for connection in chunk if connection in present]
                self._send(chunk, sending.frame, push.level)
                await trio.lowlevel.checkpoint()

    def _send(self, members: list[Connection], frame: bytes, level: Level) -> None:
        """Send to some.  The common case of `Connection.send_frame` is inlined: a third of its cost."""
        size = len(frame)
        for connection in members:
            if connection.outbox is None and not connection.state:
                try:
                    sent = connection.sock.send(frame)
                except OSError as exc:
                    connection.unsent(frame, 0, exc, level)
                else:
                    if sent != size:
                        connection.unsent(frame, sent, None, level)
            else:
                connection.send_frame(frame, level)
        self._frames += len(members)

    def statistics(self) -> BroadcasterStatistics:
        """Return the counts since the start."""
        return BroadcasterStatistics(self._pushes, self._without_members, self._frames)
