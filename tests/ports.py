"""Ports of loopback for the daemons of tests."""

from __future__ import annotations

import socket


def reserve_port() -> socket.socket:
    """Return a socket that is bound and never listens: its port is for a daemon, which binds it as well.

    As long as it is open nobody else gets the port, also while the daemon is away: no other test, and no
    client that dials the daemon again and again (it would be connected to itself).
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def port_of(held: socket.socket) -> int:
    return int(held.getsockname()[1])


def free_port() -> int:
    """Return a port where nobody listens."""
    with reserve_port() as held:
        return port_of(held)
