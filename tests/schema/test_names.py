"""Names: golden partitions and service keys, and what is a room."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from schema.names import (
    MAX_ROOM_BYTES,
    TOPIC,
    partition,
    queue_name_problem,
    room_problem,
    service_key,
    topic_of,
)
from tests.vectors import Vector, each


@each("names", "partitions")
def test_partition_is_the_vectors(vector: Vector) -> None:
    said = vector["fields"]
    for partitions, number in said["partition_of"].items():
        assert partition(said["room"], int(partitions)) == number


@each("names", "service_keys")
def test_service_key_is_the_go_systems(vector: Vector) -> None:
    said = vector["fields"]
    assert service_key(said["service"], said["address"]) == said["key"]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 1000))
def test_any_room_has_a_partition(room: str, partitions: int) -> None:
    assert 0 <= partition(room, partitions) < partitions


def test_topic_has_a_number_only_where_there_are_several() -> None:
    assert topic_of(TOPIC, 0, 1) == "chat_room"
    assert [topic_of(TOPIC, number, 2) for number in range(2)] == ["chat_room.0", "chat_room.1"]


@pytest.mark.parametrize("name", ["t", "chat_room.7", "a-b_c.D9", "t#ephemeral", "x" * 64])
def test_name_that_nsqd_takes_is_fine(name: str) -> None:
    assert queue_name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "räume", "x" * 65, "x" * 55 + "#ephemeral", "t#other", "t\n"]
)
def test_name_that_nsqd_refuses_is_a_problem(name: str) -> None:
    assert queue_name_problem(name) is not None


@pytest.mark.parametrize("room", ["a", "大厅 🎉", "a b", "x" * MAX_ROOM_BYTES, "é" * 64, "\u200b", "../room"])
def test_room_name_is_taken(room: str) -> None:
    assert room_problem(room) is None


@pytest.mark.parametrize(
    ("room", "problem"),
    [
        ("", "empty"),
        ("x" * (MAX_ROOM_BYTES + 1), "over 128 bytes"),
        ("é" * 65, "over 128 bytes"),
        ("a\nb", "control characters"),
        ("a\x00", "control characters"),
        ("\x7f", "control characters"),
        ("\x9f", "control characters"),
        ("\ud800", "not UTF-8"),
    ],
)
def test_no_room_name_is_told_why(room: str, problem: str) -> None:
    assert problem in (room_problem(room) or "")
