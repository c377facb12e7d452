"""systemd's side of a service, on the standard library alone: sd_notify(3) and the watchdog.

Without the variables of systemd in the environment all of it does nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import trio

ASK_AGAIN: Final = 0.1
"""Part of the interval after which one that was not alive is asked again."""


class Notifier:
    """Tells systemd how the service is.  Owned by whoever opened it; dies with that context.

    A message that cannot be delivered is dropped and counted: systemd has deadlines of its own.
    """

    def __init__(self, sock: socket.socket | None) -> None:
        self._socket = sock
        self._sent = 0
        self._dropped = 0

    def ready(self) -> None:
        """The start is over: `READY=1`."""
        self.notify("READY=1")

    def stopping(self) -> None:
        """The drain has begun: `STOPPING=1`."""
        self.notify("STOPPING=1")

    def extend_timeout(self, within_s: float) -> None:
        """Ask for `within_s` seconds for the stop, should the unit's own TimeoutStopSec be shorter."""
        self.notify(f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}")

    def status(self, text: str) -> None:
        """Say in one line what `systemctl status` shows."""
        self.notify(f"STATUS={text.splitlines()[0] if text else ''}")

    def watchdog(self) -> None:
        """The service is alive: `WATCHDOG=1`."""
        self.notify("WATCHDOG=1")

    def notify(self, *assignments: str) -> None:
        """Send assignments such as "READY=1" in one datagram, without waiting."""
        if self._socket is None:
            return
        try:
            self._socket.send("\n".join(assignments).encode())
        except OSError:
            self._dropped += 1
        else:
            self._sent += 1

    def statistics(self) -> Mapping[str, int]:
        """Return how many messages were sent and dropped."""
        return {"sent": self._sent, "dropped": self._dropped}


@contextmanager
def open_notifier(environ: Mapping[str, str]) -> Iterator[Notifier]:
    """Open the way to systemd's notification socket, `$NOTIFY_SOCKET`; `@` begins an abstract name.

    Where nobody listens there, messages are dropped: a variable that was left over from somewhere, as in a
    shell or a container, is no reason not to start.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        yield Notifier(None)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(0)
        with suppress(OSError):  # what is not connected drops all that it is told to send
            sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        yield Notifier(sock)


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often to say WATCHDOG=1: half of `$WATCHDOG_USEC`; None where nobody waits for it."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or int(usec) == 0 or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 2e6


async def feed_watchdog(
    notifier: Notifier,
    interval_s: float,
    is_alive: Callable[[], bool] = lambda: True,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Say WATCHDOG=1 every `interval_s` seconds for ever; a stalled loop stops saying it.

    Ends when cancelled.

    Args:
        notifier: where to say it.
        interval_s: between two.
        is_alive: asked before each; while it denies, nothing is said.
        task_status: says that it has begun.
    """
    task_status.started()
    while True:
        pause_s = interval_s
        if is_alive():
            notifier.watchdog()
        else:
            pause_s *= ASK_AGAIN
        await trio.sleep(pause_s)
