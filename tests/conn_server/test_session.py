"""The session as a transcript: `>>` is what the client says, what follows is decided about it."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from conn_server.session import (
    STANDING,
    Admit,
    Authenticate,
    CountMembers,
    Disconnect,
    Enqueue,
    Refusals,
    Rules,
    Session,
    State,
)
from schema.access import Code, Grant, Refused, Unavailable
from schema.closing import CloseCode
from schema.envelope import HEARTBEAT, NOT_SIGNED_IN, PONG, PackageType, Publish
from schema.message import Level
from schema.proto import conn_pb2 as pb

NOW = 100.0
UNIX = 1_700_000_000.0
GRANT = Grant(7, "7", int(UNIX) + 3600)


def req(type_: int, data: bytes = b"", request_id: int = 0) -> bytes:
    return pb.Req(type=type_, data=data, id=request_id).SerializeToString()  # type: ignore[arg-type]


def sign_in(room: str = "a", version: int = 0, request_id: int = 0) -> bytes:
    return req(1, pb.SignIn(token="t", roomID=room, version=version).SerializeToString(), request_id)


def message(room: str = "a", level: int = 0, data: bytes = b"hi", request_id: int = 0) -> bytes:
    body = pb.BroadcastRoomReq(roomID=room, msgLv=level, data=data)  # type: ignore[arg-type]
    return req(3, body.SerializeToString(), request_id)


def err(reply: object) -> tuple[int, int, str, int]:
    """Return (package type, code, text, id) of an error reply."""
    assert isinstance(reply, bytes)
    envelope = pb.Reply.FromString(reply)
    inner = pb.Err.FromString(envelope.data)
    return envelope.type, inner.code, inner.msg, envelope.id


def new_session(rules: Rules | None = None) -> tuple[Session, Refusals]:
    refusals = Refusals()
    return Session(rules or Rules(), refusals, NOW), refusals


def signed_in_session(
    rules: Rules | None = None, *, room: str = "a", version: int = 0, grant: Grant = GRANT
) -> tuple[Session, Refusals]:
    session, refusals = new_session(rules)
    enter(session, room, version, grant)
    return session, refusals


def enter(session: Session, room: str, version: int = 0, grant: Grant = GRANT) -> Admit:
    command = session.frame_received(sign_in(room, version), NOW)
    assert isinstance(command, Authenticate)
    admit = session.sign_in_succeeded(command, grant)
    assert isinstance(admit, Admit)
    session.admitted(admit, 1, NOW, UNIX)
    return admit


def test_heartbeat_before_sign_in_is_told_to_sign_in() -> None:
    session, refusals = new_session()
    assert session.frame_received(HEARTBEAT, NOW) == NOT_SIGNED_IN
    assert refusals.counts == {"not_signed_in": 1}


def test_request_before_sign_in_gets_its_id_back() -> None:
    session, _ = new_session()
    assert err(session.frame_received(message(request_id=9), NOW)) == (0, 100, "请登录", 9)


@pytest.mark.parametrize("version", [0, 1])
def test_standing_answers_are_those_of_a_signed_in_session(version: int) -> None:
    session, _ = signed_in_session(version=version)
    assert STANDING[HEARTBEAT] == PONG
    assert {message: session.frame_received(message, NOW) for message in STANDING} == STANDING


def test_heartbeat_with_an_id_gets_it_back() -> None:
    session, _ = signed_in_session()
    answer = session.frame_received(req(2, request_id=5), NOW)
    assert isinstance(answer, bytes)
    assert pb.Reply.FromString(answer) == pb.Reply(type=2, data=b"pong", id=5)  # type: ignore[arg-type]


def test_sign_in_of_a_go_era_client_is_answered_byte_for_byte() -> None:
    session, _ = new_session()
    command = session.frame_received(sign_in("a"), NOW)
    assert command == Authenticate("t", "a", 0, 0)
    assert session.state is State.SIGNING_IN
    admit = session.sign_in_succeeded(command, GRANT)
    assert admit == Admit((), "a", GRANT, 0, 0)
    assert session.admitted(admit, 1, NOW, UNIX).hex(" ") == "12 05 12 03 73 75 63"
    assert session.memberships == {"a": GRANT}


def test_sign_in_of_version_one_tells_members_heartbeat_and_time() -> None:
    session, _ = new_session()
    command = session.frame_received(sign_in("a", 1, 3), NOW)
    assert isinstance(command, Authenticate)
    admit = session.sign_in_succeeded(command, GRANT)
    assert isinstance(admit, Admit)
    reply = pb.Reply.FromString(session.admitted(admit, 4, NOW, UNIX))
    told = pb.Err.FromString(reply.data).signed_in
    assert (reply.id, told.members, told.heartbeat_timeout_s, told.server_time_ms) == (
        3,
        4,
        60,
        int(UNIX) * 1000,
    )


def test_uid_zero_is_signed_in_like_anybody_else() -> None:
    session, _ = signed_in_session(grant=Grant(0, "ann"))
    assert session.frame_received(HEARTBEAT, NOW) == PONG


def test_refused_sign_in_keeps_the_connection_and_may_be_tried_again() -> None:
    session, refusals = new_session()
    command = session.frame_received(sign_in(), NOW)
    assert isinstance(command, Authenticate)
    answer = session.sign_in_failed(command, Refused(Code.NOT_SIGNED_IN, "signature is invalid"))
    assert err(answer) == (0, 100, "rpc error: code = Unknown desc = signature is invalid", 0)
    assert session.state is State.NEW
    assert refusals.counts == {"sign_in_refused": 1}
    enter(session, "a")


@pytest.mark.parametrize(("version", "code"), [(0, 100), (1, 503)])
def test_unreachable_logic_is_503_except_to_a_go_era_client(version: int, code: int) -> None:
    session, _ = new_session()
    command = session.frame_received(sign_in(version=version), NOW)
    assert isinstance(command, Authenticate)
    assert err(session.sign_in_failed(command, Unavailable("away")))[1] == code


@pytest.mark.parametrize("room", ["", "x" * 129, "a\nb", "\x7f"])
def test_sign_in_to_a_bad_room_name_is_refused_with_the_reason(room: str) -> None:
    session, refusals = new_session()
    kind, code, text, _ = err(session.frame_received(sign_in(room), NOW))
    assert (kind, code) == (0, 400)
    assert "room name" in text
    assert refusals.counts == {"room_name": 1}


def test_token_that_does_not_allow_the_room_is_refused() -> None:
    session, _ = new_session()
    command = session.frame_received(sign_in("secret"), NOW)
    assert isinstance(command, Authenticate)
    answer = session.sign_in_succeeded(command, Grant(7, "7", rooms=("a", "b*")))
    assert err(answer)[1] == 403
    assert session.state is State.NEW


def test_second_sign_in_switches_rooms() -> None:
    session, _ = signed_in_session(room="a")
    admit = enter(session, "b")
    assert admit.leave == ("a",)
    assert list(session.memberships) == ["b"]


def test_second_sign_in_to_the_same_room_renews_the_token() -> None:
    session, _ = signed_in_session(room="a")
    later = Grant(7, "7", int(UNIX) + 9000)
    admit = enter(session, "a", grant=later)
    assert admit.leave == ()
    assert session.memberships == {"a": later}
    assert session.time_passed(NOW + 8000, NOW + 8000) is None


def test_refused_second_sign_in_takes_nothing_away() -> None:
    session, _ = signed_in_session(room="a")
    command = session.frame_received(sign_in("b"), NOW)
    assert isinstance(command, Authenticate)
    session.sign_in_failed(command, Refused(Code.NOT_SIGNED_IN, "登录信息过期"))
    assert session.state is State.SIGNED_IN
    assert list(session.memberships) == ["a"]


def test_members_asks_for_the_room_the_client_is_in() -> None:
    session, _ = signed_in_session(room="a")
    assert session.frame_received(req(4, request_id=2), NOW) == CountMembers("a", 2)


def test_message_becomes_an_enqueue_with_the_sender_of_the_token() -> None:
    session, _ = signed_in_session()
    command = session.frame_received(message(level=1, request_id=4), NOW)
    assert command == Enqueue(Publish("a", Level.IMPORTANT, b"hi"), "7", 4)
    assert err(session.enqueued(command)) == (5, 0, "suc", 4)
    assert err(session.not_enqueued(command, Unavailable("full"))) == (5, 503, "full", 4)
    assert err(session.not_enqueued(command, Refused(Code.TOO_LARGE, "big"))) == (5, 413, "big", 4)


def test_message_without_an_id_is_never_acknowledged() -> None:
    session, refusals = signed_in_session()
    command = session.frame_received(message(), NOW)
    assert isinstance(command, Enqueue)
    assert session.enqueued(command) is None
    assert session.not_enqueued(command, Unavailable("full")) is None
    assert refusals.counts == {"publish_unavailable": 1}


REFUSED_MESSAGES = [
    (message("b", request_id=1), GRANT, 403, "not_a_member"),
    (message(data=b"", request_id=1), GRANT, 400, "no_data"),
    (message(data=b"x" * 61441, request_id=1), GRANT, 413, "too_large"),
    (message(request_id=1), Grant(7, "7", may_post=False), 403, "may_not_post"),
    (message(level=1, request_id=1), Grant(7, "7", may_important=False), 403, "may_not_important"),
    (req(3, b"\xff", 1), GRANT, 400, "undecodable"),
]


@pytest.mark.parametrize(("frame", "grant", "code", "reason"), REFUSED_MESSAGES)
def test_refused_message_says_why_and_is_counted(frame: bytes, grant: Grant, code: int, reason: str) -> None:
    session, refusals = signed_in_session(grant=grant)
    answer = err(session.frame_received(frame, NOW))
    assert (answer[0], answer[1], answer[3]) == (5, code, 1)
    assert refusals.counts == {reason: 1}


def test_message_of_full_size_is_taken() -> None:
    session, _ = signed_in_session()
    assert isinstance(session.frame_received(message(data=b"x" * 61440), NOW), Enqueue)


def test_posting_elsewhere_is_a_setting_and_still_needs_a_room_name() -> None:
    session, _ = signed_in_session(Rules(post_anywhere=True))
    assert isinstance(session.frame_received(message("b"), NOW), Enqueue)
    assert err(session.frame_received(message("\n", request_id=1), NOW))[1] == 400


def test_posting_elsewhere_goes_no_further_than_the_rooms_of_the_token() -> None:
    session, refusals = signed_in_session(Rules(post_anywhere=True), grant=Grant(7, "7", rooms=("a", "b*")))
    assert isinstance(session.frame_received(message("b2"), NOW), Enqueue)
    assert err(session.frame_received(message("secret", request_id=1), NOW))[:2] == (5, 403)
    assert refusals.counts == {"may_not_join": 1}


def test_messages_over_the_rate_are_refused_until_time_has_passed() -> None:
    session, refusals = signed_in_session(Rules(publish_interval_s=1.0, publish_burst=2))
    kinds = [type(session.frame_received(message(request_id=1), NOW + t)) for t in (0, 0, 0, 0.9, 1.0, 1.0)]
    assert kinds == [Enqueue, Enqueue, bytes, bytes, Enqueue, bytes]
    assert refusals.counts == {"too_fast": 3}


def test_unknown_type_is_ignored_without_an_id_and_answered_with_one() -> None:
    session, refusals = signed_in_session()
    assert session.frame_received(req(77), NOW) is None
    assert err(session.frame_received(req(77, request_id=8), NOW))[::3] == (PackageType.ACK, 8)
    assert refusals.counts == {"unknown_type": 2}


def test_undecodable_frame_is_counted_and_ignored() -> None:
    session, refusals = signed_in_session()
    assert session.frame_received(b"\xff\xff", NOW) is None
    assert refusals.counts == {"undecodable": 1}


DEADLINES = [
    (0, None, NOW + 601, Disconnect(CloseCode.HEARTBEAT_TIMEOUT)),
    (0, None, NOW + 599, None),
    (1, None, NOW + 61, Disconnect(CloseCode.HEARTBEAT_TIMEOUT)),
    (1, None, NOW + 59, None),
    (1, int(UNIX) + 30, NOW + 31, Disconnect(CloseCode.TOKEN_EXPIRED)),
]


@pytest.mark.parametrize(("version", "expires_at_s", "now", "expected"), DEADLINES)
def test_signed_in_deadlines(
    version: int, expires_at_s: int | None, now: float, expected: Disconnect | None
) -> None:
    session, _ = signed_in_session(version=version, grant=Grant(7, "7", expires_at_s or 0))
    assert session.time_passed(now, NOW) == expected


def test_sign_in_has_a_deadline_that_a_refusal_does_not_move() -> None:
    session, _ = new_session()
    command = session.frame_received(sign_in(), NOW + 4)
    assert isinstance(command, Authenticate)
    session.sign_in_failed(command, Refused(Code.NOT_SIGNED_IN, "no"))
    assert session.time_passed(NOW + 4.9, NOW + 4) is None
    assert session.time_passed(NOW + 5.1, NOW + 4) == Disconnect(CloseCode.SIGN_IN_TIMEOUT)


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([sign_in(), message(), HEARTBEAT, req(4)])))
)
def test_no_sequence_of_frames_raises_or_loses_track(frames: list[bytes]) -> None:
    session, _ = new_session()
    for frame in frames:
        answer = session.frame_received(frame, NOW)
        if isinstance(answer, Authenticate):
            admit = session.sign_in_succeeded(answer, GRANT)
            assert isinstance(admit, Admit)
            session.admitted(admit, 1, NOW, UNIX)
        assert (session.state is State.SIGNED_IN) == bool(session.memberships)
