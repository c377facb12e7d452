"""Addresses as text."""

from __future__ import annotations

import pytest

from runtime.rpc.address import join_address, split_address


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("127.0.0.1:6000", "127.0.0.1", 6000), ("a.example:0", "a.example", 0), ("[::1]:80", "::1", 80)],
)
def test_address_splits_and_joins(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address


@pytest.mark.parametrize(
    "address", ["", "host", ":80", "host:", "host:x", "host:65536", "host:-1", "::1:80", "h:²"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        split_address(address)
