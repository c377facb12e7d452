"""One client's protocol state: events in, answers and commands out.  Pure.

Rules
1. Everything that decides what a client may do next is in this file, most of it in `Session.TRANSITIONS`.
2. Nothing here blocks, reads a clock or touches a socket: `now` is an argument (seconds, any
   origin), what must be done is returned as a command, and its outcome comes back as an event.
3. An answer is the payload of a WebSocket message (bytes); its frame is the connection's matter.
4. While a command is under way the connection is not read, so no frame arrives in between.
5. A request that carries an id is answered exactly once, with that id.
6. What a client has is its memberships: a refused or failed sign-in takes none of them away.
7. SIGNED_IN is left for SIGNING_IN only, in which nothing is read: what is answered the same every time
   (`STANDING`) is known from the first sign-in on, and need not be asked.

    state        frame                   becomes      answer or command
    NEW          SIGN_IN                 SIGNING_IN   Authenticate
    NEW          anything else           NEW          Err 100
    SIGNING_IN   (sign_in_succeeded)     SIGNED_IN    Admit
    SIGNING_IN   (sign_in_failed)        NEW or SIGNED_IN, as before
    SIGNED_IN    HEARTBEAT               SIGNED_IN    pong
    SIGNED_IN    MEMBERS                 SIGNED_IN    CountMembers
    SIGNED_IN    MESSAGE                 SIGNED_IN    Enqueue, or an ACK that says why not
    SIGNED_IN    SIGN_IN                 SIGNING_IN   Authenticate: another room, or a renewed token
    any          other type              as before    ACK 400 if it has an id, else ignored
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import ClassVar, Final

from schema.access import SIGN_IN_FIRST, Code, Grant, Refused, Unavailable, go_error_text
from schema.closing import CloseCode
from schema.envelope import (
    HEARTBEAT,
    NOT_SIGNED_IN,
    PONG,
    SIGNED_IN,
    PackageType,
    Publish,
    Request,
    SignedIn,
    decode_publish,
    decode_request,
    decode_sign_in,
    encode_ack,
    encode_error,
    encode_pong,
    encode_signed_in,
)
from schema.message import Level, Malformed
from schema.names import room_problem


class State(Enum):
    """Where a client stands."""

    NEW = "new"
    SIGNING_IN = "signing in"
    SIGNED_IN = "signed in"


STANDING: Final[Mapping[bytes, bytes]] = {HEARTBEAT: PONG}
"""What `frame_received` answers every time, once a client has signed in."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Ask logic about `token`; then call `sign_in_succeeded` or `sign_in_failed`."""

    token: str
    room: str
    version: int
    request_id: int


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Hand a message to the queue; then call `enqueued` or `not_enqueued`."""

    publish: Publish
    sender: str
    request_id: int


@dataclass(frozen=True, slots=True)
class CountMembers:
    """Answer with the number of members of `room`."""

    room: str
    request_id: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Join `join`, leave the rooms of `leave`, then send what `admitted` returns: one sync step.

    Where there is no place in `join`, call `sign_in_failed` and leave nothing.
    """

    leave: tuple[str, ...]
    join: str
    grant: Grant
    version: int
    request_id: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection."""

    code: CloseCode


Command = Authenticate | Enqueue | CountMembers
Answer = bytes | Command | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of a session, the same for all; durations in seconds.

    Attributes:
        sign_in_timeout_s: from the upgrade to a successful sign-in.
        heartbeat_timeout_s: without any whole frame, by client generation (0, and 1 or later).
        max_data_bytes: of one message's data.
        post_anywhere: posting needs no membership, only a token that allows the room.
        publish_interval_s: of one message on average; 0 is no limit.
        publish_burst: messages that may come at once.
    """

    sign_in_timeout_s: float = 5.0
    heartbeat_timeout_s: tuple[float, float] = (600.0, 60.0)
    max_data_bytes: int = 60 * 1024
    post_anywhere: bool = False
    publish_interval_s: float = 0.0
    publish_burst: int = 1

    def heartbeat_timeout_of(self, version: int) -> float:
        """Return the heartbeat deadline of a client generation."""
        return self.heartbeat_timeout_s[1 if version else 0]


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """What clients sent and did not get since the start, by reason."""

    refused: Mapping[str, int]


@dataclass(slots=True)
class Refusals:
    """Counts what clients sent and did not get, by reason; one for all sessions of a node."""

    counts: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str) -> None:
        """Count one."""
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def statistics(self) -> SessionStatistics:
        """Return the counts since the start."""
        return SessionStatistics(dict(self.counts))


class Session:
    """The state machine of one client.  Owned by its client; dies with it.

    Attributes:
        version: 0 for a Go-era client, from 1 on for those that know wire part 2.
        memberships: room -> the grant by which the client is in it.
        deadline: when the sign-in must have succeeded or, later, when the token ends (`now` scale).
    """

    __slots__ = ("_publish_due", "_refusals", "_rules", "deadline", "memberships", "state", "version")

    def __init__(self, rules: Rules, refusals: Refusals, now: float) -> None:
        self._rules = rules
        self._refusals = refusals
        self._publish_due = 0.0
        self.state = State.NEW
        self.version = 0
        self.memberships: dict[str, Grant] = {}
        self.deadline = now + rules.sign_in_timeout_s

    def frame_received(self, payload: bytes, now: float) -> Answer:
        """Decide about one message from the client.  Never raises for what a client sent."""
        try:
            request = decode_request(payload)
        except Malformed:
            self._refusals.count("undecodable")
            return None
        decide = self.TRANSITIONS.get((self.state, request.type))
        if decide is not None:
            return decide(self, request, now)
        if self.state is State.NEW:
            self._refusals.count("not_signed_in")
            if not request.id:
                return NOT_SIGNED_IN
            return encode_error(Code.NOT_SIGNED_IN, SIGN_IN_FIRST, request.id)
        self._refusals.count("unknown_type")
        return self._ack(Code.BAD_REQUEST, f"type {request.type} is not known here", request.id)

    def _sign_in(self, request: Request, now: float) -> Answer:
        try:
            sign_in = decode_sign_in(request.data)
        except Malformed:
            self._refusals.count("undecodable")
            return encode_error(Code.BAD_REQUEST, "not a SignIn", request.id) if request.id else None
        problem = room_problem(sign_in.room)
        if problem is not None:
            self._refusals.count("room_name")
            return encode_error(Code.BAD_REQUEST, problem, request.id)
        self.state = State.SIGNING_IN
        return Authenticate(sign_in.token, sign_in.room, sign_in.version, request.id)

    def _heartbeat(self, request: Request, now: float) -> Answer:
        return encode_pong(request.id)

    def _members(self, request: Request, now: float) -> Answer:
        return CountMembers(next(iter(self.memberships)), request.id)

    def _message(self, request: Request, now: float) -> Answer:
        try:
            publish = decode_publish(request.data)
        except Malformed:
            self._refusals.count("undecodable")
            return self._ack(Code.BAD_REQUEST, "not a BroadcastRoomReq", request.id)
        problem = self._publish_problem(publish, now)
        if problem is not None:
            code, reason, text = problem
            self._refusals.count(reason)
            return self._ack(code, text, request.id)
        return Enqueue(publish, self._grant_for(publish.room).user, request.id)

    def _publish_problem(self, publish: Publish, now: float) -> tuple[Code, str, str] | None:
        """Say why `publish` may not be: code, reason for the counter, text for the client."""
        rules = self._rules
        if publish.room not in self.memberships and not rules.post_anywhere:
            return Code.FORBIDDEN, "not_a_member", "join the room before posting to it"
        if (room := room_problem(publish.room)) is not None:
            return Code.BAD_REQUEST, "room_name", room
        if not publish.data:
            return Code.BAD_REQUEST, "no_data", "a message needs data"
        if len(publish.data) > rules.max_data_bytes:
            return Code.TOO_LARGE, "too_large", f"data is over {rules.max_data_bytes} bytes"
        grant = self._grant_for(publish.room)
        if not grant.may_join(publish.room):  # `post_anywhere` spares the join, not the token's rooms
            return Code.FORBIDDEN, "may_not_join", "the token does not allow this room"
        if not grant.may_post:
            return Code.FORBIDDEN, "may_not_post", "the token does not allow posting"
        if publish.level is Level.IMPORTANT and not grant.may_important:
            return Code.FORBIDDEN, "may_not_important", "the token does not allow IMPORTANT"
        if not self._conforms(now):
            return Code.TOO_FAST, "too_fast", "too many messages, slow down"
        return None

    def _conforms(self, now: float) -> bool:
        """The generic cell rate algorithm (ITU-T I.371) on one float: when the next is due."""
        interval = self._rules.publish_interval_s
        if not interval:
            return True
        due = max(self._publish_due, now)
        if due - now > interval * (self._rules.publish_burst - 1):
            return False
        self._publish_due = due + interval
        return True

    def _grant_for(self, room: str) -> Grant:
        grant = self.memberships.get(room)
        return next(iter(self.memberships.values())) if grant is None else grant

    def sign_in_succeeded(self, command: Authenticate, grant: Grant) -> bytes | Admit:
        """Take logic's yes: `Admit`, or the answer where the token does not allow the room."""
        if not grant.may_join(command.room):
            return self.sign_in_failed(command, Refused(Code.FORBIDDEN, "the token does not allow this room"))
        leave = tuple(room for room in self.memberships if room != command.room)
        return Admit(leave, command.room, grant, command.version, command.request_id)

    def sign_in_failed(self, command: Authenticate, error: Refused | Unavailable) -> bytes:
        """Take logic's no, or its silence: the client stays what it was and may try again."""
        self.state = State.SIGNED_IN if self.memberships else State.NEW
        if isinstance(error, Unavailable):
            self._refusals.count("sign_in_unavailable")
            # A Go-era client knows 100 only; others must not log their user out for this.
            code = Code.UNAVAILABLE if command.version else Code.NOT_SIGNED_IN
            return encode_error(code, go_error_text(error.text), command.request_id)
        self._refusals.count("sign_in_refused")
        if error.code is Code.NOT_SIGNED_IN:
            return encode_error(error.code, go_error_text(error.text), command.request_id)
        return encode_error(error.code, error.text, command.request_id)

    def admitted(self, admit: Admit, members: int, now: float, unix_now: float) -> bytes:
        """The member is in the room, which has `members` now: return the answer to its sign-in."""
        self.state = State.SIGNED_IN
        self.version = admit.version
        self.memberships = {admit.join: admit.grant}
        expires_at_s = admit.grant.expires_at_s
        self.deadline = now + (expires_at_s - unix_now) if expires_at_s else inf
        if not admit.version:
            return encode_signed_in(None, admit.request_id) if admit.request_id else SIGNED_IN
        timeout_s = int(self._rules.heartbeat_timeout_of(admit.version))
        return encode_signed_in(SignedIn(members, timeout_s, int(unix_now * 1000)), admit.request_id)

    def enqueued(self, command: Enqueue) -> bytes | None:
        """The queue has the message."""
        return self._ack(Code.OK, "suc", command.request_id)

    def not_enqueued(self, command: Enqueue, error: Refused | Unavailable) -> bytes | None:
        """The queue has not got the message, and says why."""
        if isinstance(error, Unavailable):
            self._refusals.count("publish_unavailable")
            return self._ack(Code.UNAVAILABLE, error.text, command.request_id)
        self._refusals.count("publish_refused")
        return self._ack(error.code, error.text, command.request_id)

    def time_passed(self, now: float, last_seen: float) -> Disconnect | None:
        """Say whether a deadline is over; `last_seen` is when the last whole frame came."""
        if now > self.deadline:
            return Disconnect(CloseCode.TOKEN_EXPIRED if self.memberships else CloseCode.SIGN_IN_TIMEOUT)
        if self.memberships and now - last_seen > self._rules.heartbeat_timeout_of(self.version):
            return Disconnect(CloseCode.HEARTBEAT_TIMEOUT)
        return None

    def next_deadline(self, last_seen: float) -> float:
        """Return when `time_passed` may have something to say, if nothing happens until then."""
        if not self.memberships:
            return self.deadline
        return min(self.deadline, last_seen + self._rules.heartbeat_timeout_of(self.version))

    @staticmethod
    def _ack(code: Code, text: str, request_id: int) -> bytes | None:
        return encode_ack(code, text, request_id) if request_id else None

    TRANSITIONS: ClassVar[Mapping[tuple[State, int], Callable[[Session, Request, float], Answer]]] = {
        (State.NEW, PackageType.SIGN_IN): _sign_in,
        (State.SIGNED_IN, PackageType.SIGN_IN): _sign_in,
        (State.SIGNED_IN, PackageType.HEARTBEAT): _heartbeat,
        (State.SIGNED_IN, PackageType.MESSAGE): _message,
        (State.SIGNED_IN, PackageType.MEMBERS): _members,
    }
