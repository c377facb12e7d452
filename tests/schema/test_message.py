"""Queue bodies and pushes: golden bytes both ways, and Malformed for what is none."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from schema.message import Item, Level, Malformed, Message, Push, level_of
from schema.proto.conn_pb2 import BroadcastRoomReq
from tests.vectors import Vector, each

uint64 = st.integers(0, 2**64 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
messages = st.builds(
    Message,
    room=name,
    level=st.sampled_from(Level),
    data=st.binary(min_size=1, max_size=100),
    origin=uint64,
    origin_seq=uint64,
    sender=text,
    sent_at_ms=st.integers(-(2**63), 2**63 - 1),
)
items = st.builds(Item, text, st.integers(0, 2**63 - 1), st.binary(max_size=16))
pushes = st.builds(
    Push,
    name,
    st.sampled_from(Level),
    st.binary(min_size=1, max_size=100),
    st.lists(items, max_size=4).map(tuple),
)


def message_of(vector: Vector) -> Message:
    said = vector["fields"]
    return Message(
        room=said["room"],
        level=Level(said["level"]),
        data=bytes.fromhex(said["data_hex"]),
        origin=int(said["origin"]),
        origin_seq=int(said["origin_seq"]),
        sender=said["sender"],
        sent_at_ms=said["sent_at_ms"],
    )


@each("message", "both_ways")
def test_message_becomes_the_queue_body(vector: Vector) -> None:
    assert message_of(vector).encode().hex() == vector["hex"]


@each("message", "both_ways")
def test_queue_body_becomes_the_message(vector: Vector) -> None:
    assert Message.decode(bytes.fromhex(vector["hex"])) == message_of(vector)


@each("message", "read_only")
def test_queue_body_that_we_would_write_otherwise_is_read(vector: Vector) -> None:
    assert Message.decode(bytes.fromhex(vector["hex"])) == message_of(vector)


@each("message", "malformed")
def test_malformed_body_is_said_to_be_so(vector: Vector) -> None:
    body = bytes.fromhex(vector["hex"])
    with pytest.raises(Malformed):
        Message.decode(body)
    with pytest.raises(Malformed):
        Push.decode(body)


def test_go_peer_ignores_what_was_added() -> None:
    """Upstream's message type has the fields 1 to 3 only: ours read by it says the same."""
    stamped = Message("lobby", Level.IMPORTANT, b"x", 5, 6, "ann", 7)
    known = b"".join(
        bytes([tag << 3 | kind]) + value
        for tag, kind, value in ((1, 2, b"\x05lobby"), (2, 0, b"\x01"), (3, 2, b"\x01x"))
    )
    assert stamped.encode().startswith(known)
    added = BroadcastRoomReq.FromString(stamped.encode()).ListFields()[3:]
    assert all(field.number >= 10 for field, _ in added)


def test_push_to_a_go_era_client_has_none_of_the_new_fields() -> None:
    push = Push("lobby", Level.NORMAL, b"\x01\x00\x00\x00x", (Item("ann", 1, b"i"),))
    assert push.encode(version=0) == Push(push.room, push.level, push.body).encode()


def test_broadcast_without_room_or_data_is_refused_in_the_words_of_the_go_system() -> None:
    with pytest.raises(Malformed, match=r"^缺少roomID或data参数$"):
        Push.of(BroadcastRoomReq(roomID="lobby"))
    with pytest.raises(Malformed, match=r"^缺少roomID或data参数$"):
        Push.of(BroadcastRoomReq(data=b"x"))


def test_identity_of_a_message_is_sixteen_bytes_and_none_without_origin() -> None:
    identity = bytes(7) + b"\x01" + bytes(7) + b"\x02"
    assert Message("r", Level.NORMAL, b"x", 1, 2, "ann", 3).item == Item("ann", 3, identity)
    assert Message("r", Level.NORMAL, b"x", 0, 2).item == Item("", 0, b"")


@pytest.mark.parametrize(
    ("number", "level"), [(0, Level.NORMAL), (1, Level.IMPORTANT), (2, Level.NORMAL), (-1, Level.NORMAL)]
)
def test_only_one_is_important(number: int, level: Level) -> None:
    assert level_of(number) is level


@given(messages)
def test_any_message_comes_back_as_it_was(message: Message) -> None:
    assert Message.decode(message.encode()) == message


@given(pushes)
def test_any_push_comes_back_as_it_was(push: Push) -> None:
    assert Push.decode(push.encode()) == push


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(body: bytes) -> None:
    for decode in (Message.decode, Push.decode):
        try:
            decode(body)
        except Malformed:
            continue


@given(messages, st.data())
def test_any_damage_to_a_message_is_another_one_or_malformed(message: Message, data: st.DataObject) -> None:
    body = bytearray(message.encode())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    with suppress(Malformed):
        Message.decode(bytes(body)).encode()
