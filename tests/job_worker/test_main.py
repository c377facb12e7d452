from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from job_worker.__main__ import main
from tests.program import started

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "vectors" / "go" / "job-example.toml"


@pytest.mark.parametrize("flag", [["-conf", str(EXAMPLE)], [f"-conf={EXAMPLE}"], ["--conf", str(EXAMPLE)]])
def test_settings_are_shown_with_their_source(flag: list[str]) -> None:
    outcome = CliRunner().invoke(main, [*flag, "--check"])
    assert outcome.exit_code == 0
    assert "job-example.toml" in outcome.output
    assert 'topic = "chat_room"' in outcome.output


def test_unknown_key_is_refused(tmp_path: Path) -> None:
    conf = tmp_path / "job.toml"
    conf.write_text("[room]\nbatsh = 3\n")
    outcome = CliRunner().invoke(main, ["-conf", str(conf)])
    assert outcome.exit_code == 2
    assert "batch" in outcome.output


def test_admin_port_that_cannot_be_bound_is_said_in_one_line(tmp_path: Path) -> None:
    conf = tmp_path / "job.toml"
    conf.write_text('[etcd]\naddrs = []\n[admin]\nbind = "192.0.2.1:7002"\n[log]\nlevel = "error"\n')
    command = [sys.executable, "-m", "job_worker", "-conf", str(conf)]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert outcome.returncode == 2
    assert outcome.stderr == "job: admin port 192.0.2.1:7002: Cannot assign requested address\n"


async def test_process_starts_without_its_neighbours_and_drains_on_sigterm(tmp_path: Path) -> None:
    conf = tmp_path / "job.toml"
    conf.write_text(
        '[etcd]\naddrs = []\n[rpc]\nconns = ["127.0.0.1:9"]\n[nsq]\naddr = "127.0.0.1:9"\n'
        '[admin]\nbind = "127.0.0.1:0"\n[log]\nformat = "json"\n'
    )
    async with started("job_worker", tmp_path, f"-conf={conf}") as program:
        await program.wait("serving")
        program.process.send_signal(signal.SIGTERM)
    assert program.process.returncode == 0
    assert program.lines[-1]["event"] == "stopped"
