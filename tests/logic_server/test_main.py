from __future__ import annotations

import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from logic_server.__main__ import main
from tests.program import started

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
    async with started("logic_server", tmp_path, f"-conf={conf}", ROOMCAST_TOKEN_SECRET=SECRET) as program:
        await program.wait("serving")
        program.process.send_signal(signal.SIGTERM)
    assert program.process.returncode == 0
    assert program.lines[-1]["event"] == "stopped"
