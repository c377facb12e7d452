from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from runtime.systemd import Notifier, feed_watchdog, open_notifier, watchdog_interval_s

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["path", "abstract"])
def service_manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """systemd's end of the notification socket, and what $NOTIFY_SOCKET says."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@roomcast-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        yield sock, name


def test_messages_reach_the_service_manager(service_manager: tuple[socket.socket, str]) -> None:
    sock, name = service_manager
    with open_notifier({"NOTIFY_SOCKET": name}) as notifier:
        notifier.ready()
        notifier.status("serving 3 rooms\nsecond line")
        notifier.stopping()
        notifier.extend_timeout(22.5)
        notifier.notify("READY=1", "STATUS=both")
        assert [sock.recv(4096) for _ in range(5)] == [
            b"READY=1",
            b"STATUS=serving 3 rooms",
            b"STOPPING=1",
            b"EXTEND_TIMEOUT_USEC=22500000",
            b"READY=1\nSTATUS=both",
        ]
        assert notifier.statistics() == {"sent": 5, "dropped": 0}


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_service_manager_nothing_happens(environ: dict[str, str]) -> None:
    with open_notifier(environ) as notifier:
        notifier.ready()
        assert notifier.statistics() == {"sent": 0, "dropped": 0}


@pytest.mark.parametrize("missing", ["nobody", "stale"])
def test_service_starts_where_nobody_listens_and_messages_are_counted(tmp_path: Path, missing: str) -> None:
    """A variable left over from a shell or a container once ended the start in a traceback."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind(str(tmp_path / "stale"))
    with open_notifier({"NOTIFY_SOCKET": str(tmp_path / missing)}) as notifier:
        notifier.ready()
        assert notifier.statistics() == {"sent": 0, "dropped": 1}


def test_service_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        with open_notifier({"NOTIFY_SOCKET": name}) as notifier:
            while not notifier.statistics()["dropped"]:
                notifier.watchdog()


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_watchdog_is_fed_at_half_its_time(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ, pid=7) == interval_s


async def test_watchdog_is_fed_from_the_loop_and_not_while_it_stalls(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        notifier = Notifier(near)
        async with trio.open_nursery() as nursery:
            await nursery.start(feed_watchdog, notifier, 1.5)
            await trio.sleep(4)
            assert notifier.statistics()["sent"] == 3  # at 0, 1.5 and 3
            autojump_clock.jump(60)
            assert notifier.statistics()["sent"] == 3
            await trio.testing.wait_all_tasks_blocked()
            assert notifier.statistics()["sent"] == 4
            nursery.cancel_scope.cancel()
        assert far.recv(64) == b"WATCHDOG=1"


async def test_watchdog_is_not_fed_while_what_it_stands_for_is_not_alive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    alive = False
    with near, far:
        notifier = Notifier(near)
        async with trio.open_nursery() as nursery:
            await nursery.start(feed_watchdog, notifier, 10, lambda: alive)
            await trio.sleep(10.5)
            assert notifier.statistics()["sent"] == 0
            alive = True
            await trio.sleep(1)  # it is asked again soon, not only after another interval
            assert notifier.statistics()["sent"] == 1
            nursery.cancel_scope.cancel()
