from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, strategies as st

from clients.python.frames import (
    decode_push,
    decode_reply,
    decode_verdict,
    encode_publish,
    encode_request,
    encode_sign_in,
)
from schema.envelope import HEARTBEAT, PackageType, decode_publish, decode_request, decode_sign_in
from schema.message import Level, Malformed
from tests.clients.vectors import VECTORS


def test_heartbeat_is_two_bytes() -> None:
    assert encode_request(PackageType.HEARTBEAT) == HEARTBEAT


def test_requests_are_the_golden_bytes_and_what_a_server_reads() -> None:
    for vector in VECTORS["requests"]:
        frame = encode_request(PackageType(vector["type"]), bytes.fromhex(vector["data"]), vector["id"])
        assert frame.hex() == vector["hex"]
        assert asdict(decode_request(frame)) == {
            "type": vector["type"], "data": bytes.fromhex(vector["data"]), "id": vector["id"],
        }  # fmt: skip


def test_sign_ins_and_publishes_are_the_golden_bytes_and_what_a_server_reads() -> None:
    for vector in VECTORS["sign_ins"]:
        data = encode_sign_in(vector["token"], vector["room"], vector["version"])
        assert data.hex() == vector["hex"]
        assert decode_sign_in(data).room == vector["room"]
    for vector in VECTORS["publishes"]:
        data = encode_publish(vector["room"], Level(vector["level"]), bytes.fromhex(vector["data"]))
        assert data.hex() == vector["hex"]
        assert decode_publish(data).data.hex() == vector["data"]


def test_replies_and_verdicts_are_read() -> None:
    for vector in VECTORS["replies"]:
        answer = decode_reply(bytes.fromhex(vector["hex"]))
        assert (answer.type, answer.data.hex(), answer.id) == (vector["type"], vector["data"], vector["id"])
    for vector in VECTORS["verdicts"]:
        verdict = decode_verdict(bytes.fromhex(vector["hex"]))
        signed_in = verdict.signed_in and asdict(verdict.signed_in)
        assert (verdict.code, verdict.text, signed_in) == (
            vector["code"],
            vector["text"],
            vector["signed_in"],
        )


def test_pushes_are_read() -> None:
    for vector in VECTORS["pushes"]:
        messages = decode_push(bytes.fromhex(vector["hex"]), 7)
        assert {(message.room, message.level) for message in messages} == {(vector["room"], vector["level"])}
        assert [(message.batch, message.index) for message in messages] == [
            (7, index) for index in range(len(messages))
        ]
        read = [
            {"data": m.data.hex(), "sender": m.sender, "sent_at_ms": m.sent_at_ms, "id": m.id.hex()}
            for m in messages
        ]
        assert read == vector["messages"]


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "reply": decode_reply,
    "verdict": decode_verdict,
    "push": lambda data: decode_push(data, 1),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_malformed_bytes_are_refused(kind: str) -> None:
    for vector in VECTORS["malformed"][kind]:
        with pytest.raises(Malformed):
            pytest.fail(f"{vector['why']}: {DECODERS[kind](bytes.fromhex(vector['hex']))}")


@given(st.sampled_from(list(DECODERS)), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(kind: str, data: bytes) -> None:
    with suppress(Malformed):
        DECODERS[kind](data)
