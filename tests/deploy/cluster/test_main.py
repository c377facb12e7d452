"""`python -m deploy.cluster` as a person starts it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from deploy.cluster.__main__ import port_chooser
from tests.http import http_client

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "deploy.cluster")

# Takes nsqd's flags and is the stand-in of the tests, so that this runs where there is no nsqd.
NSQD = f"""#!{sys.executable}
import os, sys
flags = dict(argument.removeprefix("--").split("=") for argument in sys.argv[1:])
os.chdir({str(ROOT)!r})
os.execv({sys.executable!r}, [
    {sys.executable!r}, "-m", "tests.fakes.nsqd",
    "--data-path", flags["data-path"], "--mem-queue-size", flags["mem-queue-size"],
    "--port", flags["tcp-address"].split(":")[1], "--control-port", flags["http-address"].split(":")[1],
    "--min-output-buffer-timeout", "1",
])
"""


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "nsqd").write_text(NSQD)
    (tmp_path / "nsqd").chmod(0o755)
    done = subprocess.run(
        COMMAND,
        env={"PATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "cluster: not on PATH: etcd\n")


def test_port_that_is_wanted_is_given_unless_it_is_taken_or_none() -> None:
    choose = port_chooser()
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        wanted, free = taken.getsockname()[1], other.getsockname()[1]
        assert choose(wanted) != wanted
        other.close()
        assert choose(free) == free
        assert choose(free) != free
        assert choose(65536) <= 65535


@pytest.fixture
def etcd() -> None:
    """There is etcd: installed in CI, and a machine without it skips."""
    if shutil.which("etcd") is None:
        reason = "etcd is not on PATH (apt-get install etcd-server)"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[trio.Process]:
    """Start the cluster; it is told to stop at the end, should it still be there."""
    (folder / "nsqd").write_text(NSQD)
    (folder / "nsqd").chmod(0o755)
    process = await trio.lowlevel.open_process(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(folder)},
    )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.terminate()
                with trio.move_on_after(40):
                    await process.wait()
            process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


async def read_until(process: trio.Process, end: str) -> str:
    """Return what the cluster says up to `end`."""
    assert process.stdout is not None
    text = ""
    while end not in text:
        chunk = await process.stdout.receive_some()
        assert chunk, text
        text += chunk.decode()
    return text


@pytest.mark.usefixtures("etcd")
async def test_cluster_starts_serves_tokens_and_messages_and_stops_in_order(tmp_path: Path) -> None:
    with trio.fail_after(90):
        async with cluster(tmp_path) as process:
            text = await read_until(process, "Ctrl-C stops everything.")
            pages = re.findall(r"conn-\d +(http://[^/]+)/ and", text)
            assert len(pages) == 2
            async with http_client() as client:
                token = (await client.post(f"{pages[0]}/tk", data={"uid": "7"})).json()["data"]
                answer = await client.post(
                    f"{pages[1]}/msg",
                    data={"room_id": "lobby", "msg": "hello"},
                    headers={"Authorization": f"Bearer {token}"},
                )
                assert answer.json() == {"code": 1, "msg": "suc"}
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            async for chunk in process.stdout:
                text += chunk.decode()
            assert await process.wait() == 0, text
    stopped = re.findall(r"^(\S+) +\|.*exit_code=0", text, re.MULTILINE)
    assert [name.split("-")[0] for name in stopped] == ["job", "conn", "conn", "logic", "logic"], text
    assert {path.name for path in tmp_path.iterdir()} == {"nsqd"}  # noqa: ASYNC240  nobody waits for us
