"""What stands in etcd for one server, as the Go system writes and reads it (operations.md, etcd).  Pure.

    /room_conn/127.0.0.1:6000  ->  {"name":"room_conn","addr":"127.0.0.1:6000","version":"","weight":0}

The Go system takes a logic server's address from the value and a conn server's from the key.  We write the
same into both, and read the value, or the key where the value says nothing.
"""

from __future__ import annotations

import msgspec

from runtime.units import parse_dialled
from schema.names import service_key


class _Entry(msgspec.Struct, frozen=True):
    name: str = ""
    addr: str = ""
    version: str = ""
    weight: int = 0


def service_prefix(service: str) -> bytes:
    """Return what the keys of all servers of `service` begin with."""
    return service_key(service, "").encode()


def entry(service: str, address: str) -> tuple[bytes, bytes]:
    """Return the key and the value that announce `address` ("host:port")."""
    return service_key(service, address).encode(), msgspec.json.encode(_Entry(name=service, addr=address))


def read_entry(prefix: bytes, key: bytes, value: bytes) -> tuple[str | None, str | None]:
    """Return the address that is announced, and what was unreadable: `value`, or `key` if both were."""
    try:
        return parse_dialled(msgspec.json.decode(value, type=_Entry).addr), None
    except ValueError:  # msgspec's are, too
        pass
    try:
        return parse_dialled(key.removeprefix(prefix).decode()), "value"
    except ValueError:
        return None, "key"
