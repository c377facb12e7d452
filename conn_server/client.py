"""One client: its task owns socket, deadlines and room membership.

The poller calls `receive` and `swept` synchronously; what needs to wait (sign-in, publish) is run
in order by the client's one task, and the connection is not read meanwhile.  When the task ends,
for whatever reason, the socket is closed and the member has left its rooms; when the socket is
closed, the task ends, after a publish that is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from conn_server.admission import Admission
from conn_server.connection import Connection, Pause
from conn_server.frames import encode_frame
from conn_server.origin import Origin
from conn_server.rooms import Rooms
from conn_server.session import STANDING, Admit, Authenticate, CountMembers, Enqueue, Refusals, Rules, Session
from schema.access import Grant, Refused, Unavailable
from schema.closing import CloseCode
from schema.envelope import encode_members
from schema.message import Level, Message

_STANDING_FRAMES: Final = {message: encode_frame(answer) for message, answer in STANDING.items()}


class Logic(Protocol):
    """What a client asks of the logic servers."""

    async def authenticate(self, token: str) -> Grant:
        """Check `token`; has a deadline of its own.

        Raises:
            Refused: it is not valid.
            Unavailable: nobody could be asked.
        """

    async def publish(self, message: Message) -> None:
        """Hand `message` to the queue; returns once the queue has it, and has a deadline of its own.

        Raises:
            Refused: it will never be taken.
            Unavailable: the queue has not got it.
        """


@dataclass(frozen=True, slots=True)
class Node:
    """A conn server as its clients see it; one for all of them.

    Attributes:
        unix_now: Unix time in seconds.
        check: returns what a token allows or raises Refused, at once; where there is none, logic is asked.
    """

    logic: Logic
    rooms: Rooms[Connection]
    admission: Admission
    origin: Origin
    rules: Rules
    refusals: Refusals
    unix_now: Callable[[], float]
    check: Callable[[str], Grant] | None = None


class Client:
    """The receiver of one connection and the owner of one task.  Made when the upgrade is answered.

    Args:
        node: what all clients share.
        address: where it comes from, as `Admission.enter` gave it.
        now: `trio.current_time()`.
    """

    __slots__ = ("_address", "_node", "_scope", "_task", "_work", "connection", "session")

    def __init__(self, node: Node, address: str, now: float) -> None:
        self._node = node
        self._address = address
        self.session = Session(node.rules, node.refusals, now)
        self.connection: Connection | None = None
        self._work: Authenticate | Enqueue | None = None
        self._task: trio.lowlevel.Task | None = None  # while it sleeps
        self._scope: trio.CancelScope | None = None  # while it signs in

    def receive(self, payload: bytes, now: float) -> bytes | Pause | None:
        """Decide about one message; called by the connection, never while work is under way."""
        answer = self.session.frame_received(payload, now)
        if answer is None or isinstance(answer, bytes):
            return answer
        if isinstance(answer, CountMembers):
            return encode_members(len(self._node.rooms.members(answer.room)), answer.request_id)
        self._work = answer
        self._wake()
        return Pause.PAUSE

    def swept(self, now: float) -> float:
        """Look at the deadlines, and say when to look again; called by the connection."""
        connection = self.connection
        if connection is None:
            return now
        last_seen = now if self._work is not None else connection.last_seen
        late = self.session.time_passed(now, last_seen)
        if late is not None:
            connection.close(late.code)
        return self.session.next_deadline(last_seen)

    def closing(self) -> None:
        """Nothing can be sent any more: leave the rooms; called by the connection."""
        if self.connection is not None:
            for room in self.session.memberships:
                self._node.rooms.leave(self.connection, room)
        self._stop_signing_in()

    def closed(self, code: int) -> None:
        """The socket is gone: leave the rooms and end the task; called once by the connection."""
        self.closing()
        self.connection = None  # no cycle is left for the collector
        self._node.admission.leave(self._address)
        self._wake()

    def cancel(self) -> None:
        """End this client alone, at once."""
        if self.connection is not None:
            self.connection.abort(CloseCode.GOING_AWAY)

    async def run(self) -> None:
        """Run what needs to wait, in order, until the connection is closed.

        Cancellation closes the socket without a close frame and leaves the rooms.
        """
        try:
            while self.connection is not None:
                if self._work is None:
                    self._task = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._interrupted)
                else:
                    await self._run_work(self._work)
                    if self._work is not None:  # it has said more meanwhile: the others' turn first
                        await trio.lowlevel.checkpoint()
        finally:
            self.cancel()

    async def _run_work(self, work: Authenticate | Enqueue) -> None:
        answer: bytes | None = None
        connection = self.connection
        try:
            answer = await (self._publish(work) if isinstance(work, Enqueue) else self._sign_in(work))
        except Exception:  # a defect of ours must not take the other clients along
            if connection is not None:
                connection.fail()
        self._work = None
        if self.connection is not None:
            if answer is not None:
                self.connection.send(answer, Level.IMPORTANT)
            self.connection.resume()

    async def _sign_in(self, work: Authenticate) -> bytes | None:
        decision: bytes | Admit | None = None
        check = self._node.check
        try:
            if check is not None:
                decision = self.session.sign_in_succeeded(work, check(work.token))
            else:
                with trio.CancelScope() as self._scope:
                    grant = await self._node.logic.authenticate(work.token)
                    decision = self.session.sign_in_succeeded(work, grant)
        except (Refused, Unavailable) as error:
            decision = self.session.sign_in_failed(work, error)
        finally:
            self._scope = None
        # No await from here to the answer: pushes of the new room would come before it.
        return self._admit(work, decision) if isinstance(decision, Admit) else decision

    def _admit(self, work: Authenticate, admit: Admit) -> bytes | None:
        """Join and leave in one step, so that no push of either room falls between."""
        node, connection = self._node, self.connection
        if connection is None or connection.state:
            return None
        try:
            node.rooms.join(connection, admit.join, admit.version)
        except Unavailable as error:
            return self.session.sign_in_failed(work, error)
        for room in admit.leave:
            node.rooms.leave(connection, room)
        members = len(node.rooms.members(admit.join))
        answer = self.session.admitted(admit, members, trio.current_time(), node.unix_now())
        connection.standing = _STANDING_FRAMES
        connection.look_at(self.session.next_deadline(connection.last_seen))
        return answer

    async def _publish(self, work: Enqueue) -> bytes | None:
        node, publish = self._node, work.publish
        message = node.origin.stamp(publish.room, publish.level, publish.data, work.sender)
        try:
            await node.logic.publish(message)
        except (Refused, Unavailable) as error:
            return self.session.not_enqueued(work, error)
        return self.session.enqueued(work)

    def _wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def _interrupted(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _stop_signing_in(self) -> None:
        """Nobody waits for it any more; a publish goes on: what was read of a client is not thrown away."""
        if self._scope is not None:
            self._scope.cancel()
