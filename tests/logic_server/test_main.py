from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from logic_server.__main__ import main

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "vectors" / "go" / "logic-example.toml"
SECRET = "a secret of thirty-two bytes, yes"


@pytest.mark.parametrize("flag", [["-conf", str(EXAMPLE)], [f"-conf={EXAMPLE}"], ["--conf", str(EXAMPLE)]])
def test_settings_are_shown_with_their_source_and_without_secrets(flag: list[str]) -> None:
    outcome = CliRunner().invoke(main, [*flag, "--check"], env={"ROOMCAST_TOKEN_SECRET": SECRET})
    assert outcome.exit_code == 0
    assert "logic-example.toml" in outcome.output
    assert 'topic = "chat_room"' in outcome.output
    assert SECRET not in outcome.output


def test_it_does_not_start_without_a_secret(tmp_path: Path) -> None:
    conf = tmp_path / "logic.toml"
    conf.write_text("[etcd]\naddrs = []\n")
    outcome = CliRunner().invoke(main, ["-conf", str(conf)], env={"ROOMCAST_TOKEN_SECRET": None})
    assert outcome.exit_code == 2
    assert "ROOMCAST_TOKEN_SECRET" in outcome.output


async def test_process_starts_without_its_neighbours_and_drains_on_sigterm(tmp_path: Path) -> None:
    conf = tmp_path / "logic.toml"
    conf.write_text(
        '[etcd]\naddrs = []\n[nsq]\naddr = "127.0.0.1:9"\n[srv]\nlistenAddr = "127.0.0.1:0"\n'
        '[admin]\nbind = "127.0.0.1:0"\n[log]\nformat = "json"\n'
    )
    command = [sys.executable, "-m", "logic_server", f"-conf={conf}"]
    environment = os.environ | {"ROOMCAST_TOKEN_SECRET": SECRET}
    process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE, cwd=ROOT, env=environment)
    try:
        assert process.stderr is not None
        lines: list[dict[str, str]] = []
        with trio.fail_after(30):
            rest, is_told = b"", False
            async for chunk in process.stderr:
                *whole, rest = (rest + chunk).split(b"\n")
                lines += map(json.loads, whole)
                if not is_told and any(line["event"] == "serving" for line in lines):
                    process.send_signal(signal.SIGTERM)
                    is_told = True
            assert await process.wait() == 0
        assert lines[-1]["event"] == "stopped"
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        if process.stderr is not None:
            await process.stderr.aclose()
