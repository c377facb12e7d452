"""A JSON string is what Go's encoding/json writes, byte for byte."""

from __future__ import annotations

import json

from hypothesis import example, given, strategies as st

from schema.gojson import encode_string
from tests.vectors import Vector, each


@each("gojson", "strings")
def test_bytes_become_what_go_writes(vector: Vector) -> None:
    assert encode_string(bytes.fromhex(vector["fields"]["input_hex"])).hex() == vector["hex"]


@each("gojson", "strings")
def test_text_becomes_what_go_writes(vector: Vector) -> None:
    text = bytes.fromhex(vector["fields"]["input_hex"]).decode(errors="surrogateescape")
    assert encode_string(text).hex() == vector["hex"]


def test_half_a_surrogate_pair_is_the_replacement_character() -> None:
    assert encode_string("a\ud83d") == encode_string("a\udf89") == rb'"a\ufffd"'


@given(st.text())
@example("\u2028</script>\\")
def test_text_reads_back_as_it_was(text: str) -> None:
    encoded = encode_string(text)
    assert json.loads(encoded) == text
    assert not set(b"<>&") & set(encoded)


@given(st.binary())
def test_any_bytes_become_valid_json_in_utf_8(data: bytes) -> None:
    assert json.loads(encode_string(data)).count("\ufffd") >= data.decode(errors="replace").count("\ufffd")
