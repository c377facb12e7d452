"""A push to every member of a room on this node.

Encoded once per client generation, and the same bytes go to every member.  A broadcast never waits
for a member: what a socket does not take at once goes to that member's outbox, which is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        """
        async with self._turn:
            members = list(self._rooms.members(push.room).items())
            self._pushes += 1
            if not members:
                self._without_members += 1
                return 0
            frames: dict[int, bytes] = {}
            for _, version in members:
                if version not in frames:
                    frames[version] = encode_frame(encode_push(push, version))
            with trio.CancelScope(shield=True):
                for start in range(0, len(members), _CHUNK_MEMBERS):
                    self._send(push, members[start : start + _CHUNK_MEMBERS], frames)
                    await trio.lowlevel.checkpoint()
            return len(members)

    def _send(self, push: Push, members: list[tuple[Connection, int]], frames: dict[int, bytes]) -> None:
        """Send to one chunk.  The common case of `Connection.send_frame` is inlined: a third of its cost."""
        level: Level = push.level
        present, absent = self._rooms.members(push.room), 0
        for connection, version in members:
            if connection not in present:
                absent += 1
                continue
            frame = frames[version]
            if connection.outbox is None and not connection.state:
                try:
                    sent = connection.sock.send(frame)
                except OSError as exc:
                    connection.unsent(frame, 0, exc, level)
                else:
                    if sent != len(frame):
                        connection.unsent(frame, sent, None, level)
            else:
                connection.send_frame(frame, level)
        self._frames += len(members) - absent

    def statistics(self) -> BroadcasterStatistics:
        """Return the counts since the start."""
        return BroadcasterStatistics(self._pushes, self._without_members, self._frames)
