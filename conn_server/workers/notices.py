"""What workers say about themselves, in the words of sd_notify(3), at a socket of the supervisor.

The socket has an abstract name, so that nothing is left in any folder.  Anybody on the host can send to such
a name: the kernel says which process it was.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import trio

LONGEST_BYTES: Final = 4096
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SCM_CREDENTIALS


class Notice(NamedTuple):
    """Assignments such as "READY=1", and the process that has sent them."""

    pid: int
    said: tuple[str, ...]


class Notices:
    """The socket.  `open_notices` owns it.

    Attributes:
        address: for `$NOTIFY_SOCKET`.
    """

    def __init__(self, sock: trio.socket.SocketType, address: str) -> None:
        self.address = address
        self._socket = sock

    async def receive(self) -> Notice:
        """Wait for the next one; cancelling loses none."""
        data, ancillary, _, _ = await self._socket.recvmsg(
            LONGEST_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
        )
        pid = 0
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid, _, _ = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])
        return Notice(pid, tuple(data.decode(errors="replace").split("\n")))


@contextmanager
def open_notices() -> Iterator[Notices]:
    """Open the socket that workers are given as `$NOTIFY_SOCKET`."""
    name = f"roomcast-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind(f"\0{name}")
        sock.settimeout(0)
        yield Notices(trio.socket.from_stdlib_socket(sock), f"@{name}")
