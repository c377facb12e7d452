"""Addresses as text: "host:port", with brackets around an IPv6 host."""

from __future__ import annotations


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `address`.

    Raises:
        ValueError: it is not "host:port" with a port from 0 to 65535.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
        raise ValueError(f"not an address (host:port): {address!r}")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return "host:port"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
