from __future__ import annotations

import os
import sys

import pytest
import trio

from conn_server.workers.notices import open_notices
from runtime.systemd import open_notifier

pytestmark = pytest.mark.usefixtures("no_leaks")

STRANGER = """
import os, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.connect(chr(0) + os.environ["NOTIFY_SOCKET"][1:])
    sock.send(b"READY=1")
print(os.getpid(), end="")
"""


async def test_what_is_said_comes_with_the_process_that_said_it() -> None:
    with open_notices() as notices:
        environ = {"NOTIFY_SOCKET": notices.address}
        with open_notifier(environ) as notifier:
            notifier.ready()
            notifier.notify("WATCHDOG=1", "STATUS=alive")
        done = await trio.run_process(
            [sys.executable, "-I", "-S", "-c", STRANGER], env=environ, capture_stdout=True
        )
        with trio.fail_after(5):
            heard = [await notices.receive() for _ in range(3)]
    assert heard == [
        (os.getpid(), ("READY=1",)),
        (os.getpid(), ("WATCHDOG=1", "STATUS=alive")),
        (int(done.stdout), ("READY=1",)),
    ]


async def test_what_is_no_text_is_taken_too() -> None:
    with open_notices() as notices, open_notifier({"NOTIFY_SOCKET": notices.address}) as notifier:
        assert notifier._socket is not None
        notifier._socket.send(b"\xff=1")
        notifier._socket.send(b"")
        with trio.fail_after(5):
            assert (await notices.receive()).said == ("\ufffd=1",)
            assert (await notices.receive()).said == ("",)


async def test_every_supervisor_has_an_address_of_its_own() -> None:
    with open_notices() as one, open_notices() as other:
        assert one.address != other.address
        assert one.address.startswith("@")
