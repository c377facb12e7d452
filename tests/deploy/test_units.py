"""The units under deploy/systemd, judged by systemd itself: `systemd-analyze verify` and `security`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
SERVICES = [path for path in UNITS if path.suffix == ".service"]
PYTHON = "/opt/roomcast/venv/bin/python"
HIGHEST_EXPOSURE = 2.0
DEFAULT_DRAIN_S = 20


@pytest.fixture(scope="module")
def analyze() -> str:
    """Return where systemd-analyze is: installed in CI, and a machine without it skips."""
    path = shutil.which("systemd-analyze")
    if path is None:
        reason = "systemd-analyze is not on PATH (apt-get install systemd)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with all units, their interpreter replaced by one that exists, as verify wants."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(PYTHON, sys.executable))
    return tmp_path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_nsqd_unit_among_the_examples_is_good(analyze: str, tmp_path: Path) -> None:
    unit = tmp_path / "nsqd.service"
    text = (ROOT / "deploy" / "examples" / "nsqd.service").read_text()
    unit.write_text(text.replace("/usr/local/bin/nsqd", sys.executable))
    done = run(analyze, "verify", "--man=no", "--recursive-errors=yes", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def service(path: Path) -> dict[str, list[str]]:
    """Return the keys of [Service], each with all its values: a key may be repeated."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_there_is_a_template_for_each_service_and_a_target() -> None:
    assert [path.name for path in UNITS] == [
        "roomcast-conn@.service",
        "roomcast-job@.service",
        "roomcast-logic@.service",
        "roomcast.target",
    ]


@pytest.mark.parametrize("name", [path.name for path in UNITS])
def test_systemd_has_nothing_to_say_about_a_unit(analyze: str, folder: Path, name: str) -> None:
    done = run(analyze, "verify", "--man=no", "--recursive-errors=yes", folder / name)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", [path.name for path in SERVICES])
def test_drop_ins_shown_in_the_comments_of_a_unit_are_good(analyze: str, folder: Path, name: str) -> None:
    shown = re.findall(r"^#   (\w+=.*)$", (folder / name).read_text(), re.MULTILINE)
    assert "LoadCredential=etcd_password:/etc/roomcast/etcd_password" in shown
    drop_in = folder / f"{name}.d" / "local.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("\n".join(("[Service]", *shown, "")))
    done = run(analyze, "verify", "--man=no", "--recursive-errors=yes", folder / name)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["WatchdogSecs=30s", "WatchdogSec=soon", "ExecStartPre=/nowhere/at/all"])
def test_mistake_in_a_unit_would_be_noticed(analyze: str, folder: Path, line: str) -> None:
    unit = folder / "roomcast-conn@.service"
    unit.write_text(unit.read_text().replace("[Service]\n", f"[Service]\n{line}\n"))
    done = run(analyze, "verify", "--man=no", "--recursive-errors=yes", unit)
    assert done.returncode != 0
    assert done.stderr


@pytest.mark.parametrize("name", [path.name for path in SERVICES])
def test_exposure_of_a_service_is_low(analyze: str, folder: Path, name: str) -> None:
    done = run(
        *(analyze, "security", "--offline=true", "--no-pager"),
        *(f"--threshold={HIGHEST_EXPOSURE * 10:.0f}", folder / name),
    )
    said = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert said, done.stderr
    assert float(said[1]) <= HIGHEST_EXPOSURE, done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_service_tells_systemd_how_it_is_and_has_time_to_drain(path: Path) -> None:
    keys = service(path)
    assert keys["Type"] == ["notify"]
    assert keys["WatchdogSec"] == ["30s"]
    assert keys["KillMode"] == ["mixed"]
    assert int(keys["TimeoutStopSec"][0].removesuffix("s")) >= DEFAULT_DRAIN_S + 5
    assert keys["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_service_starts_a_program_that_is_there_with_the_settings_of_its_instance(path: Path) -> None:
    kind = path.name.removeprefix("roomcast-").removesuffix("@.service")
    (command,) = service(path)["ExecStart"]
    module = command.split(" -m ")[1].split()[0]
    assert command == f"{PYTHON} -P -X faulthandler -m {module} -conf /etc/roomcast/{kind}-%i.toml"
    assert (ROOT / module / "__init__.py").is_file()
    assert (ROOT / "deploy" / "examples" / f"{kind}.toml").is_file()


def test_only_logic_is_given_the_token_secret() -> None:
    given = {path.name: service(path).get("LoadCredential", []) for path in SERVICES}
    assert given == {
        "roomcast-conn@.service": [],
        "roomcast-job@.service": [],
        "roomcast-logic@.service": ["token_secret:/etc/roomcast/token_secret"],
    }


def test_hardening_is_the_same_for_all_services() -> None:
    own = {"ExecStart", "LimitNOFILE", "LoadCredential"}
    shared = [{key: value for key, value in service(path).items() if key not in own} for path in SERVICES]
    assert shared[0] == shared[1] == shared[2]


def test_services_stop_with_the_target_and_are_enabled_into_it() -> None:
    for path in SERVICES:
        lines = path.read_text().splitlines()
        assert "PartOf=roomcast.target" in lines
        assert "WantedBy=roomcast.target" in lines
