from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from runtime.units import (
    Address,
    format_address,
    format_duration,
    format_size,
    parse_bind,
    parse_duration,
    parse_peer,
    parse_peers,
    parse_seconds,
    parse_size,
    split_address,
    split_peer,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1s", 1.0),
        ("1m30s", 90.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("2μs", 2e-6),
        ("0", 0.0),
        ("0s", 0.0),
        (0, 0.0),
        (1_000_000_000, 1.0),
        (250_000_000, 0.25),
    ],
)
def test_duration_is_read_as_go_reads_it(value: object, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "1", "s", "1 s", "-1s", "1d", "1s2", "1s ", "٣s", 1.5, True, None, -1, []]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="duration such as"):
        parse_duration(value)


def test_seconds_written_as_a_bare_integer_are_told_from_nanoseconds() -> None:
    with pytest.raises(ValueError, match='"20s"'):
        parse_duration(20)


@given(st.integers(0, 10**15))
def test_duration_survives_writing_and_reading(microseconds: int) -> None:
    seconds = microseconds / 1e6
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(("value", "seconds"), [(5, 5.0), (0.5, 0.5), ("5s", 5.0), ("1m", 60.0)])
def test_plain_seconds_may_be_written_as_a_duration_too(value: object, seconds: float) -> None:
    assert parse_seconds(value) == seconds


@pytest.mark.parametrize("value", ["5", True, float("inf"), float("nan"), []])
def test_what_is_no_number_of_seconds_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="number of seconds"):
        parse_seconds(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), (65536, 65536), ("64KiB", 65536), ("1 MiB", 1 << 20), ("2GiB", 2 << 30), ("7B", 7)],
)
def test_size_is_bytes_or_has_a_binary_unit(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "64", "64KB", "64k", "-1KiB", "1.5KiB", -1, 1.5, True, "9" * 40 + "B"])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a size"):
        parse_size(value)


@given(st.integers(0, 1 << 50))
def test_size_survives_writing_and_reading(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8081", ("127.0.0.1", 8081)),
        (":8081", ("", 8081)),
        ("[::1]:80", ("::1", 80)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("chat.example:0", ("chat.example", 0)),
    ],
)
def test_address_is_split(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == Address(*address)
    host, port = address
    assert not host or format_address(host, port) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8081",
        ":",
        "host:",
        "host:x",
        "host:65536",
        "::1:80",
        "[::1]",
        "a b:1",
        "http://a:1",
        "h:-1",
        "h:٣",
        "a..b:1",
        ".a:1",
        f"{'x' * 64}.example:1",
        "a．．b:1",
        f"{'é' * 60}:1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an address such as"):
        split_address(text)


@pytest.mark.parametrize("text", ["a.:1", f"{'x' * 63}.example:1", "nsqd_1:1", "é.example:1"])
def test_what_a_resolver_takes_is_an_address(text: str) -> None:
    assert split_peer(text) == (text.removesuffix(":1"), 1)


@pytest.mark.parametrize("text", ["", ":6000", "host:0", "a..b:1", "host"])
def test_what_cannot_be_dialled_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an address"):
        split_peer(text)


def test_address_without_a_host_is_good_to_listen_on_and_not_to_dial() -> None:
    assert parse_bind(":8081") == ":8081"
    with pytest.raises(ValueError, match="with a host"):
        parse_peer(":6000")


@pytest.mark.parametrize("value", [["a:1", "b:2"], ("a:1", "b:2"), "a:1, b:2"])
def test_addresses_are_an_array_or_text_with_commas(value: object) -> None:
    assert parse_peers(value) == ("a:1", "b:2")


@pytest.mark.parametrize("value", [5, ["a"], [1], "a:1,", [":1"], ["a:0"], ["a..b:1"]])
def test_what_are_no_addresses_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_peers(value)
