"""CPU time, memory and files of processes, as the kernel counts them.

CPU time is read from the clock of the process (clock_getcpuclockid): user and system time of all its threads,
those that have ended included, in ns.  /proc/PID/stat has the same in ticks of 10 ms, from which only the
share of system time is taken here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_CPUCLOCK_SCHED: Final = 2
_USER_FIELD: Final = 11  # of /proc/PID/stat, counted behind the name in parentheses
_SYSTEM_FIELD: Final = 12
_LISTEN: Final = "0A"  # of /proc/net/tcp


class Gone(Exception):
    """There is no such process (any more)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What some processes have used, added up, at one moment.

    Attributes:
        at_ns: monotonic time.
        cpu_ns: user and system time since they were started.
        user_ticks, system_ticks: the same, coarse, told apart.
        rss_bytes: resident memory.
    """

    at_ns: int
    cpu_ns: int
    user_ticks: int
    system_ticks: int
    rss_bytes: int


def usage_of(pids: Sequence[int]) -> Usage:
    """Add up what `pids` have used.

    Raises:
        Gone: one of them is not there.
    """
    cpu_ns = user = system = rss_bytes = 0
    for pid in pids:
        try:
            cpu_ns += time.clock_gettime_ns(_cpu_clock_of(pid))
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            rss_bytes += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        except OSError as exc:
            raise Gone(f"no process {pid}: {exc}") from exc
        user += int(fields[_USER_FIELD])
        system += int(fields[_SYSTEM_FIELD])
    return Usage(time.monotonic_ns(), cpu_ns, user, system, rss_bytes)


def files_of(pid: int) -> int:
    """Return how many files a process has open, sockets included; 0 where another user's may not be seen.

    Raises:
        Gone: it is not there.
    """
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return 0
    except OSError as exc:
        raise Gone(f"no process {pid}: {exc}") from exc


def cores_of(pids: Sequence[int]) -> int:
    """Return how many cores `pids` can keep busy: each one at most, on those that it may run on.

    That is so of processes of one thread, or of one that runs at a time (Python's); others can do more.

    Raises:
        Gone: one of them is not there.
    """
    cores: set[int] = set()
    for pid in pids:
        try:
            cores |= os.sched_getaffinity(pid)
        except OSError as exc:
            raise Gone(f"no process {pid}: {exc}") from exc
    return min(len(pids), len(cores))


def children_of(pid: int) -> tuple[int, ...]:
    """Return the child processes of a process, whichever of its threads started them."""
    children: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has just ended
            children += map(int, path.read_text().split())
    return tuple(children)


def listeners_at(port: int) -> int:
    """Return how many sockets of this machine listen at a TCP port, of IPv4 or IPv6."""
    tables = (table for name in ("tcp", "tcp6") if (table := Path("/proc/net", name)).exists())
    rows = (line.split() for table in tables for line in table.read_text().splitlines()[1:])
    return sum(1 for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port)


def waited_ns() -> int:
    """Return how long this process's main thread was ready and had no core, in ns; 0 if unknown."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _cpu_clock_of(pid: int) -> int:
    """Return the id of a process's CPU clock, as clock_getcpuclockid(3) computes it."""
    return (~pid << 3) | _CPUCLOCK_SCHED


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used between two moments."""

    wall_ns: int
    cpu_ns: int
    system_share: float
    rss_bytes: int

    @property
    def cores(self) -> float:
        """The share of one core; over 1 for more than one."""
        return self.cpu_ns / self.wall_ns if self.wall_ns else 0.0


def spent(before: Usage, after: Usage) -> Spent:
    """Return what was used from `before` to `after`; memory is that of `after`."""
    user, system = after.user_ticks - before.user_ticks, after.system_ticks - before.system_ticks
    return Spent(
        after.at_ns - before.at_ns,
        after.cpu_ns - before.cpu_ns,
        system / (user + system) if user + system else 0.0,
        after.rss_bytes,
    )
