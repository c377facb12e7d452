from __future__ import annotations

import resource

import pytest

from bench.limits import (
    PORTS_PER_ADDRESS,
    RESERVED_FILES,
    TooMany,
    check_files,
    raise_file_limit,
    source_addresses,
)


def test_as_many_connections_as_files_are_left() -> None:
    check_files(2 * (1000 - RESERVED_FILES), 2, 1000)
    with pytest.raises(TooMany, match="--processes 3 or more"):
        check_files(2 * (1000 - RESERVED_FILES) + 1, 2, 1000)


def test_limit_of_this_process_is_raised_to_what_it_may_have() -> None:
    assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_few_connections_come_from_wherever_the_system_likes() -> None:
    assert source_addresses(0, "127.0.0.1", PORTS_PER_ADDRESS) == ()
    assert source_addresses(1, "127.0.0.1", 100_000) == ()


def test_many_connections_are_spread_over_loopback() -> None:
    assert source_addresses(0, "127.0.0.1", PORTS_PER_ADDRESS + 1) == ("127.0.0.1", "127.0.0.2")
    assert len(source_addresses(5, "127.0.0.1", 10)) == 5


@pytest.mark.parametrize(("host", "wanted"), [("192.0.2.1", 2), ("::1", 2), ("127.0.0.1", 251)])
def test_what_cannot_be_spread_is_refused(host: str, wanted: int) -> None:
    with pytest.raises(TooMany):
        source_addresses(wanted, host, 10)
