"""From an address to a stream."""

from __future__ import annotations

import pytest

from runtime.queue.nsq.errors import ConnectionLost
from runtime.queue.nsq.handshake import open_stream
from runtime.queue.nsq.options import NsqOptions


@pytest.mark.parametrize("address", ["nsqd-1..example:4150", f"{'x' * 64}:4150", ":4150", "nowhere"])
async def test_what_is_no_address_is_unreachable(address: str) -> None:
    """The resolver's UnicodeError once ended the whole job worker."""
    with pytest.raises(ConnectionLost, match="unreachable"):
        await open_stream(address, NsqOptions())
