"""Bounds and deadlines of calls and connections, in one record for both ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """How much, how many and how long.

    Attributes:
        receive_limit_bytes: the largest message taken; larger ones end the call (RESOURCE_EXHAUSTED).
        stream_window_bytes: what a peer may send ahead of the reader of one call.
        connection_window_bytes: the same for all calls of a connection; several stream windows, so
            that one slow reader does not stop its neighbours.
        high_water_bytes: senders wait once more than this is on its way to the socket...
        low_water_bytes: ...until it is less than this.
        backlog_limit_bytes: a peer that makes us answer (pings, resets) without reading is cut off here.
        concurrent_calls: calls that a server takes at once per connection; clients queue above.
        reset_burst: calls that a client may give up in a row...
        resets_per_s: ...and how fast it earns that back; beyond it is cut off (rapid reset).
        connect_s: name, TCP and TLS handshake together, and then the peer's SETTINGS.
        ready_s: how long a call waits for a usable connection before it is UNAVAILABLE.
        call_s: deadline of a unary call that states none; on a server, for its request to come.
        keepalive_s: a connection that has been quiet for so long is pinged...
        keepalive_timeout_s: ...and closed if nothing comes back in this time.
        stall_s: a peer that takes longer to read 64 KiB, or what there is, is cut off.
        flush_s: what a closing connection still has for writing out what is pending.
        backoff_s: pause after the first failed attempt to connect, doubled each time...
        backoff_cap_s: ...up to this; both are drawn from half to all of it.
    """

    receive_limit_bytes: int = 4 << 20
    stream_window_bytes: int = 1 << 20
    connection_window_bytes: int = 8 << 20
    high_water_bytes: int = 64 << 10
    low_water_bytes: int = 16 << 10
    backlog_limit_bytes: int = 1 << 20
    concurrent_calls: int = 250
    reset_burst: int = 1000
    resets_per_s: float = 200.0
    connect_s: float = 3.0
    ready_s: float = 2.0
    call_s: float = 10.0
    keepalive_s: float = 10.0
    keepalive_timeout_s: float = 5.0
    stall_s: float = 20.0
    flush_s: float = 0.5
    backoff_s: float = 0.1
    backoff_cap_s: float = 1.0
