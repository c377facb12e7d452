"""A worker that is no conn server but lives and dies like one, and a log that can be waited for."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
import trio
from structlog.typing import FilteringBoundLogger

# Manners, in $MANNER: what it does instead of serving until SIGTERM and ending with 0.  `once:MANNER` has
# them in the first process of each worker only, for which $FOLDER keeps a note.
PLAYED = """
import os, select, signal, socket, sys
number, manner = os.environ.get("ROOMCAST_WORKER", "0"), os.environ.get("MANNER", "")
if manner.startswith("once:"):
    note = os.path.join(os.environ["FOLDER"], number)
    manner = "" if os.path.exists(note) else manner[5:]
    open(note, "w").close()
if manner == "misset":
    sys.exit(2)
if manner == "fails":
    sys.exit(1)
reading, writing = os.pipe()
os.set_blocking(writing, False)
signal.set_wakeup_fd(writing)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: None)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    if address := os.environ.get("NOTIFY_SOCKET"):
        sock.connect(chr(0) + address[1:])
    say = sock.send if address else lambda _: None
    if manner != "slow":
        say(b"READY=1")
    if manner == "stalls":
        signal.pause()
        signal.pause()
    while True:
        say(b"WATCHDOG=1")
        ready, _, _ = select.select([0, reading], [], [], 0.1)
        if 0 in ready:
            break
        if reading in ready:
            number = os.read(reading, 1)[0]
            if number == signal.SIGHUP:
                say(b"STATUS=reloaded")
            else:
                break
    say(b"STOPPING=1")
sys.exit(1 if manner == "drains badly" else 0)
"""
COMMAND = (sys.executable, "-I", "-S", "-c", PLAYED)


class Heard:
    """What was logged, with a way to wait for it."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._more = trio.Event()
        self.log: FilteringBoundLogger = structlog.wrap_logger(
            None,
            processors=[structlog.processors.add_log_level, self._take],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        )

    def _take(self, _: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self.lines.append(dict(event))
        self._more.set()
        self._more = trio.Event()
        raise structlog.DropEvent

    def find(self, event: str, **fields: object) -> list[dict[str, Any]]:
        wanted = {"event": event, **fields}.items()
        return [line for line in self.lines if wanted <= line.items()]

    async def wait(self, event: str, times: int = 1, **fields: object) -> dict[str, Any]:
        """Return the line `event` with `fields`, once it has been logged so many times."""
        with trio.fail_after(10):
            while len(found := self.find(event, **fields)) < times:
                await self._more.wait()
        return found[times - 1]
