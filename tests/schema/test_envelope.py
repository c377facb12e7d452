"""Client frames: golden bytes of requests and replies, and Malformed for what is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from schema.access import SIGN_IN_FIRST, Code
from schema.envelope import (
    HEARTBEAT,
    MAX_DATA_BYTES,
    MAX_FRAME_BYTES,
    NOT_SIGNED_IN,
    PONG,
    PackageType,
    Publish,
    Request,
    SignedIn,
    SignIn,
    decode_publish,
    decode_request,
    decode_sign_in,
    encode_ack,
    encode_error,
    encode_members,
    encode_pong,
    encode_push,
    encode_signed_in,
)
from schema.message import Item, Level, Malformed, Push
from schema.proto import conn_pb2 as pb
from tests.vectors import Vector, each, load


def reply_of(vector: Vector) -> bytes:
    """Return what we send where the vector's reply is due."""
    said = vector["fields"]
    number = said["id"]
    if said["type"] == PackageType.HEARTBEAT:
        return encode_pong(number)
    if said["type"] == PackageType.MEMBERS:
        return encode_members(int(said["text"]), number)
    if "push" in said:
        pushed = said["push"]
        items = tuple(
            Item(item["sender"], item["sent_at_ms"], bytes.fromhex(item["id_hex"]))
            for item in pushed["items"] or ()
        )
        push = Push(pushed["room"], Level(pushed["level"]), bytes.fromhex(pushed["body_hex"]), items)
        return encode_push(push, 0 if pushed["items"] is None else 1)
    err = said["err"]
    if said["type"] == PackageType.ACK:
        return encode_ack(Code(err["code"]), err["msg"], number)
    if err["code"] == Code.OK:
        signed_in = SignedIn(**err["signed_in"]) if "signed_in" in err else None
        return encode_signed_in(signed_in, number)
    return encode_error(Code(err["code"]), err["msg"], number)


@each("envelope", "replies")
def test_reply_is_byte_for_byte_the_vectors(vector: Vector) -> None:
    assert reply_of(vector).hex() == vector["hex"]


@each("envelope", "requests")
def test_request_is_read(vector: Vector) -> None:
    said = vector["fields"]
    request = decode_request(bytes.fromhex(vector["hex"]))
    assert request == Request(said["type"], bytes.fromhex(said["data_hex"]), said["id"])
    if "sign_in" in said:
        assert decode_sign_in(request.data) == SignIn(**said["sign_in"])
    if "publish" in said:
        publish = said["publish"]
        expected = Publish(publish["room"], Level(publish["level"]), bytes.fromhex(publish["data_hex"]))
        assert decode_publish(request.data) == expected


def test_golden_bytes_cover_every_type_that_is_sent() -> None:
    sent = {vector["fields"]["type"] for vector in load("envelope", "replies")}
    assert sent == set(PackageType) - {PackageType.SIGN_IN, PackageType.EVENT}


def test_constants_are_the_bytes_of_the_contract() -> None:
    assert HEARTBEAT.hex() == "0802"
    assert PONG.hex() == "08021204706f6e67"
    assert NOT_SIGNED_IN.hex() == "120d08641209e8afb7e799bbe5bd95"
    assert MAX_DATA_BYTES < MAX_FRAME_BYTES == 65536


def test_what_a_client_claims_about_its_message_is_not_read() -> None:
    forged = pb.BroadcastRoomReq(roomID="r", data=b"x", origin=1, origin_seq=2, sender="root", sent_at_ms=3)
    assert decode_publish(forged.SerializeToString()) == Publish("r", Level.NORMAL, b"x")


def test_unknown_level_is_normal() -> None:
    assert decode_publish(b"\x0a\x01r\x10\x07\x1a\x01x").level is Level.NORMAL


def test_id_beyond_javascripts_integers_is_echoed_exactly() -> None:
    assert pb.Reply.FromString(encode_pong(2**64 - 1)).id == 2**64 - 1


@pytest.mark.parametrize("decode", [decode_request, decode_sign_in, decode_publish])
@pytest.mark.parametrize(
    "data", [b"\x08", b"\x0a\x05abc", b"\x0f", b"\xff" * 11, b"\x0a\x02\xff\xfe\x12\x01\xff\x1a\x09"]
)
def test_malformed_bytes_are_said_to_be_so(decode: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_malformed(data: bytes) -> None:
    for decode in (decode_request, decode_sign_in, decode_publish):
        try:
            decode(data)
        except Malformed:
            continue


@given(
    st.sampled_from([code for code in Code if code]),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(0, 2**64 - 1),
)
def test_any_refusal_is_read_back(code: Code, text: str, number: int) -> None:
    reply = pb.Reply.FromString(encode_error(code, text, number))
    err = pb.Err.FromString(reply.data)
    assert (int(reply.type), reply.id, err.code, err.msg) == (PackageType.UNKNOWN, number, code, text)


def test_sign_in_first_is_the_words_of_the_go_system() -> None:
    assert SIGN_IN_FIRST == "请登录"
