"""The merged body: golden bytes, every cut, and nothing but BatchError for what is none."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from schema.batch import HEAD_BYTES, BatchError, pack, unpack
from tests.vectors import Vector, each


def records_of(vector: Vector) -> list[bytes]:
    return [bytes.fromhex(record) for record in vector["fields"]["records_hex"]]


def read_until_cut(body: bytes) -> tuple[list[bytes], bool]:
    """Return the records that were given, and whether the body ended well."""
    records = []
    try:
        for record in unpack(body):
            records.append(record)  # noqa: PERF402  those before the error count
    except BatchError:
        return records, False
    return records, True


@each("batch", "good")
def test_records_are_packed_as_the_go_system_does(vector: Vector) -> None:
    assert pack(records_of(vector)).hex() == vector["hex"]


@each("batch", "good")
def test_body_of_the_go_system_is_unpacked(vector: Vector) -> None:
    assert list(unpack(bytes.fromhex(vector["hex"]))) == records_of(vector)


@each("batch", "cut")
def test_body_that_is_cut_gives_what_came_before(vector: Vector) -> None:
    assert read_until_cut(bytes.fromhex(vector["hex"])) == (records_of(vector), False)


def test_readme_example_is_its_bytes() -> None:
    body = bytes([5, 0, 0, 0, 112, 97, 99, 107, 49, 10, 0, 0, 0, 105, 32, 97, 109, 32, 112, 97, 99, 107, 50])
    assert pack([b"pack1", b"i am pack2"]) == body


def test_every_cut_of_a_body_is_noticed_except_between_records() -> None:
    records = [b"pack1", b"", b"i am pack2", b"x" * 300]
    body = pack(records)
    ends = [0]
    for record in records:
        ends.append(ends[-1] + HEAD_BYTES + len(record))
    for cut in range(len(body) + 1):
        whole = sum(end <= cut for end in ends) - 1
        assert read_until_cut(body[:cut]) == (records[:whole], cut in ends)


def test_length_of_three_bytes_is_little_endian() -> None:
    body = pack([b"e" * 65536])
    assert body[:HEAD_BYTES] == b"\x00\x00\x01\x00"
    assert list(unpack(body)) == [b"e" * 65536]


def test_error_says_where() -> None:
    with pytest.raises(BatchError, match="record of 9 bytes at byte 9 goes beyond 10"):
        list(unpack(pack([b"a"]) + b"\x09\x00\x00\x00b"))
    with pytest.raises(BatchError, match="length cut off at byte 5 of 7"):
        list(unpack(pack([b"a"]) + b"\x01\x00"))


@given(st.lists(st.binary(max_size=300), max_size=30))
def test_records_come_back_as_they_were(records: list[bytes]) -> None:
    assert list(unpack(pack(records))) == records


@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_a_batch_error(body: bytes) -> None:
    records, whole = read_until_cut(body)
    packed = pack(records)
    assert packed == (body if whole else body[: len(packed)])
