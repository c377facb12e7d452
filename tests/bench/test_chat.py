from __future__ import annotations

import pytest

from bench.chat import Chat
from clients.python.frames import (
    decode_push,
    decode_reply,
    decode_verdict,
    encode_publish,
    encode_request,
    encode_sign_in,
)
from schema.envelope import HEARTBEAT, PONG, PackageType
from schema.message import Level, Malformed


def sign_in(chat: Chat[str], member: str, room: str) -> None:
    reply, broadcast = chat.receive(
        member, encode_request(PackageType.SIGN_IN, encode_sign_in("any", room, 1))
    )
    assert reply is not None
    assert decode_verdict(decode_reply(reply).data).text == "suc"
    assert broadcast is None


def test_message_goes_to_the_members_of_its_room() -> None:
    chat: Chat[str] = Chat()
    for member, room in (("ann", "lobby"), ("bob", "lobby"), ("cid", "attic")):
        sign_in(chat, member, room)
    request = encode_request(PackageType.MESSAGE, encode_publish("lobby", Level.IMPORTANT, b"hi"))
    reply, broadcast = chat.receive("ann", request)
    assert reply is None
    assert broadcast is not None
    assert list(broadcast.members) == ["ann", "bob"]
    (message,) = decode_push(decode_reply(broadcast.push).data, 1)
    assert (message.room, message.level, message.data) == ("lobby", Level.IMPORTANT, b"hi")


def test_message_with_an_id_is_acknowledged() -> None:
    chat: Chat[str] = Chat()
    reply, broadcast = chat.receive(
        "ann", encode_request(PackageType.MESSAGE, encode_publish("empty", Level.NORMAL, b"hi"), 9)
    )
    assert reply is not None
    assert (decode_reply(reply).type, decode_reply(reply).id) == (PackageType.ACK, 9)
    assert broadcast is not None
    assert not broadcast.members


def test_heartbeat_is_answered_and_what_is_unknown_is_not() -> None:
    chat: Chat[str] = Chat()
    assert chat.receive("ann", HEARTBEAT) == (PONG, None)
    assert chat.receive("ann", encode_request(PackageType.MEMBERS)) == (None, None)
    with pytest.raises(Malformed):
        chat.receive("ann", b"\xff")


def test_who_leaves_or_changes_rooms_is_not_in_the_old_one() -> None:
    chat: Chat[str] = Chat()
    sign_in(chat, "ann", "lobby")
    sign_in(chat, "ann", "attic")
    sign_in(chat, "bob", "attic")
    chat.leave("bob")
    chat.leave("bob")
    for room, members in (("lobby", []), ("attic", ["ann"])):
        publish = encode_request(PackageType.MESSAGE, encode_publish(room, Level.NORMAL, b"x"))
        _, broadcast = chat.receive("ann", publish)
        assert broadcast is not None
        assert list(broadcast.members) == members
