"""A push to every member of a room on this node.

Encoded once per client generation, and the same bytes go to every member.  A broadcast never waits
for a member: what a socket does not take at once goes to that member's outbox, which is bounded.

Pushes that come together are sent together, to each member in one call of the system, which is nearly all
that a push costs: the more a node is behind, the cheaper they get.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """The members of one client generation, what they get, and all of it in one piece."""

    members: list[Connection]
    frames: list[tuple[bytes, Level]]
    joined: bytes


class Broadcaster:
    """Sends pushes one after the other.  Owned by the conn server's app, for all who push.

    Large rooms are sent to in chunks with a checkpoint between them, so that heartbeats get their
    turn; the fair lock keeps two pushes from interleaving, which would show members another order.

    Args:
        rooms: who is where.
        joins: whether pushes that come together may be sent in one piece.  Not over TLS: OpenSSL has to be
            given again exactly what it could not write, and the outbox holds frames.
    """

    def __init__(self, rooms: Rooms[Connection], *, joins: bool = True) -> None:
        self._rooms = rooms
        self._joins = joins
        self._turn = trio.Lock()
        self._pushes = 0
        self._without_members = 0
        self._frames = 0

    async def broadcast(self, *pushes: Push) -> int:
        """Send `pushes`, all of one room, to the members that it has now; return how many there were.

        Who joins while they are being sent does not get them, who leaves gets nothing more.  Cancelling
        it before its turn sends nothing; once begun they are sent to all (it never waits for a peer).
        A small room is sent to at once, without a checkpoint: whoever calls in a loop has one of its own.
        """
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            self._pushes += len(pushes)
            sendings = self._prepare(pushes)
            count = len(self._rooms.members(pushes[0].room))
            if not count:
                self._without_members += len(pushes)
            elif count <= _CHUNK_MEMBERS:
                for sending in sendings:
                    self._send(sending.members, sending)
            else:
                with trio.CancelScope(shield=True):
                    await self._send_in_chunks(pushes[0].room, sendings)
            return count
        finally:
            self._turn.release()

    def _prepare(self, pushes: Sequence[Push]) -> list[_Sending]:
        """Encode `pushes` for each client generation in their room."""
        members = self._rooms.members(pushes[0].room)
        versions = set(members.values())
        if len(versions) == 1:  # nearly always, and a list is made much faster than looked through
            groups = [(version, list(members)) for version in versions]
        else:
            groups = [
                (want, [one for one, version in members.items() if version == want]) for want in versions
            ]
        return [
            _Sending(group, frames, b"".join([frame for frame, _ in frames]))
            for version, group in groups
            for frames in self._encode(pushes, version)
        ]

    def _encode(self, pushes: Sequence[Push], version: int) -> list[list[tuple[bytes, Level]]]:
        frames = [(encode_frame(encode_push(push, version)), push.level) for push in pushes]
        return [frames] if self._joins else [[frame] for frame in frames]

    async def _send_in_chunks(self, room: str, sendings: list[_Sending]) -> None:
        departures = self._rooms.departures
        for sending in sendings:
            for start in range(0, len(sending.members), _CHUNK_MEMBERS):
                chunk = sending.members[start : start + _CHUNK_MEMBERS]
                if self._rooms.departures != departures:
                    present = self._rooms.members(room)
                    chunk = [connection for connection in chunk if connection in present]
                self._send(chunk, sending)
                await trio.lowlevel.checkpoint()

    def _send(self, members: list[Connection], sending: _Sending) -> None:
        """Send to some.  The common case of `Connection.send_frame` is inlined: a third of its cost."""
        _, frames, joined = sending
        size = len(joined)
        for connection in members:
            if connection.outbox is None and not connection.state:
                try:
                    sent = connection.sock.send(joined)
                except OSError as exc:
                    connection.unsent(frames, 0, exc)
                else:
                    if sent != size:
                        connection.unsent(frames, sent, None)
            else:
                for frame, level in frames:
                    connection.send_frame(frame, level)
        self._frames += len(members) * len(frames)

    def statistics(self) -> BroadcasterStatistics:
        """Return the counts since the start."""
        return BroadcasterStatistics(self._pushes, self._without_members, self._frames)
