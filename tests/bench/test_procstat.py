from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import AsyncExitStack

import pytest
import trio

from bench.procstat import (
    Gone,
    Usage,
    children_of,
    cores_of,
    files_of,
    listeners_at,
    spent,
    usage_of,
    waited_ns,
)


def test_own_cpu_time_is_seen_to_the_microsecond() -> None:
    before = usage_of([os.getpid()])
    began = time.process_time_ns()
    while time.process_time_ns() - began < 20_000_000:
        pass
    used = spent(before, usage_of([os.getpid()]))
    assert used.cpu_ns >= 20_000_000
    assert used.cpu_ns - (time.process_time_ns() - began) < 5_000_000
    assert used.rss_bytes > 1 << 20


def test_time_without_a_core_only_grows() -> None:
    before = waited_ns()
    os.sched_yield()
    assert 0 <= before <= waited_ns()


def test_several_processes_are_added_up() -> None:
    alone, twice = usage_of([os.getpid()]), usage_of([os.getpid()] * 2)
    assert twice.cpu_ns >= 2 * alone.cpu_ns
    assert twice.rss_bytes > alone.rss_bytes


async def test_processes_share_the_cores_that_they_may_run_on() -> None:
    core = min(os.sched_getaffinity(0))
    async with AsyncExitStack() as stack:
        pids = []
        for _ in range(2):
            process = await trio.lowlevel.open_process([sys.executable, "-c", "import time; time.sleep(60)"])
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)
            pids.append(process.pid)
        assert cores_of(pids) == min(2, len(os.sched_getaffinity(0)))
        for pid in pids:
            os.sched_setaffinity(pid, {core})
        assert cores_of(pids) == 1
    with pytest.raises(Gone):
        cores_of([4194999])
    assert cores_of([]) == 0


def test_nobody_uses_nothing() -> None:
    assert usage_of([]).cpu_ns == usage_of([]).rss_bytes == 0


def test_process_that_is_not_there_is_named() -> None:
    with pytest.raises(Gone, match="no process 4194999"):
        usage_of([4194999])
    with pytest.raises(Gone, match="no process 4194999"):
        files_of(4194999)
    assert children_of(4194999) == ()


def test_open_sockets_count_as_files() -> None:
    before = files_of(os.getpid())
    with socket.socket():
        assert files_of(os.getpid()) == before + 1


async def test_child_is_seen_although_a_thread_has_started_it() -> None:
    process = await trio.lowlevel.open_process([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert process.pid in children_of(os.getpid())
    finally:
        process.kill()
        await process.wait()


def test_sockets_that_listen_at_a_port_are_counted_and_those_that_only_have_it_are_not() -> None:
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        port = first.getsockname()[1]
        second.bind(("127.0.0.1", port))
        counts = [listeners_at(port)]
        for sock in (first, second):
            sock.listen()
            counts.append(listeners_at(port))
    assert counts == [0, 1, 2]
    assert listeners_at(port) == 0


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
def test_socket_that_takes_both_ip_versions_is_counted() -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        assert listeners_at(sock.getsockname()[1]) == 1


def test_cores_and_share_of_the_kernel() -> None:
    used = spent(Usage(0, 0, 10, 5, 7), Usage(2_000, 3_000, 11, 8, 9))
    assert (used.cores, used.system_share, used.rss_bytes) == (1.5, 0.75, 9)
    assert spent(Usage(0, 0, 0, 0, 0), Usage(0, 0, 0, 0, 0)).cores == 0.0
