from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest
import structlog

from runtime.logs import open_logs
from runtime.secret import Secret
from runtime.sections import Log

pytestmark = pytest.mark.usefixtures("no_leaks")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FullDisk(io.StringIO):
    def write(self, _: str) -> NoReturn:
        raise OSError(28, "No space left on device")


def fail_with(local: str) -> NoReturn:
    raise ValueError(len(local))


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_line_is_one_json_object_with_level_and_time() -> None:
    out = io.StringIO()
    with open_logs(Log(), out) as logs:
        logs.logger.bind(service="conn").info("listening", address="127.0.0.1:8081")
    (line,) = lines(out)
    assert line.pop("time").endswith("Z")
    assert line == {"event": "listening", "level": "info", "service": "conn", "address": "127.0.0.1:8081"}


def test_terminal_gets_lines_for_people() -> None:
    out = Terminal()
    with open_logs(Log(), out) as logs:
        logs.logger.info("listening")
    assert "listening" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_format_can_be_forced() -> None:
    console, terminal = io.StringIO(), Terminal()
    with open_logs(Log(format="console"), console) as logs:
        logs.logger.info("one")
    with open_logs(Log(format="json"), terminal) as logs:
        logs.logger.info("two")
    assert not console.getvalue().startswith("{")
    assert lines(terminal)[0]["event"] == "two"


def test_levels_below_the_threshold_are_silent() -> None:
    out = io.StringIO()
    with open_logs(Log(level="warning"), out) as logs:
        logs.logger.info("quiet")
        logs.logger.warning("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


def test_traceback_is_in_the_line_and_no_local_variable_of_it() -> None:
    out, people = io.StringIO(), io.StringIO()
    for stream, form in ((out, "json"), (people, "console")):
        with open_logs(Log(format=form), stream) as logs:  # type: ignore[arg-type]
            try:
                fail_with("".join(("very", " private")))
            except ValueError:
                logs.logger.exception("failed")
    (line,) = lines(out)
    assert line["level"] == "error"
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert "ValueError" in people.getvalue()
    assert "very private" not in out.getvalue() + people.getvalue()


def test_secrets_are_masked_by_type_and_by_name() -> None:
    out = io.StringIO()
    with open_logs(Log(), out) as logs:
        logs.logger.info("x", given=Secret(b"private"), token="private", Authorization="Bearer private")
        logs.logger.info("y", nested={"deep": [Secret(b"private")]})
    assert "private" not in out.getvalue()
    assert lines(out)[0]["token"] == "***"


def test_standard_library_comes_out_the_same_way() -> None:
    out = io.StringIO()
    with open_logs(Log(), out):
        logging.getLogger("hypercorn.error").warning("bad %s", "peer")
        logging.getLogger("hypercorn.access").info("each request")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    events = [(line.get("logger"), line["event"]) for line in lines(out)]
    assert events[0] == ("hypercorn.error", "bad peer")
    assert [name for name, _ in events[1:]] == ["py.warnings"]


@pytest.mark.parametrize(("level", "shown"), [(35, "warning"), (45, "error"), (99, "critical"), (25, None)])
def test_level_of_a_dependencys_own_counts_as_the_next_below(level: int, shown: str | None) -> None:
    """Once it raised KeyError in the dependency that had logged."""
    out = io.StringIO()
    with open_logs(Log(), out):
        logging.getLogger("dependency").log(level, "hello")
    assert [line["level"] for line in lines(out)] == ([shown] if shown else [])


class Unspeakable:
    def __repr__(self) -> str:
        raise KeyError("no repr")


@pytest.mark.parametrize("kind", ["json", "console"])
def test_field_that_cannot_be_shown_costs_the_line_its_fields_and_no_more(
    kind: Literal["json", "console"],
) -> None:
    out = io.StringIO()
    circle: dict[str, object] = {}
    circle["itself"] = circle
    with open_logs(Log(format=kind), out) as logs:
        logs.logger.warning("first", field=Unspeakable())
        logs.logger.warning("second", field=circle)
        assert logs.statistics().lines == 2
        assert logs.statistics().dropped.get("fields", 0) >= 1
    first, second = out.getvalue().splitlines()
    assert "first" in first
    assert "KeyError" in first
    assert "second" in second


def test_dependencies_may_talk_when_debugging() -> None:
    out = io.StringIO()
    with open_logs(Log(level="debug"), out):
        logging.getLogger("hypercorn.access").info("each request")
    assert [line["event"] for line in lines(out)] == ["each request"]


def test_loggers_of_structlog_come_out_too_and_only_while_it_is_open() -> None:
    before, handlers = structlog.get_config(), list(logging.getLogger().handlers)
    out = io.StringIO()
    log = structlog.get_logger("nsq")
    with open_logs(Log(level="warning"), out):
        log.info("quiet")
        log.warning("lost")
    assert [line["event"] for line in lines(out)] == ["lost"]
    assert structlog.get_config() == before
    assert logging.getLogger().handlers == handlers


def test_file_gets_json_also_beside_a_terminal(tmp_path: Path) -> None:
    path, out = tmp_path / "log" / "live.log", Terminal()
    with open_logs(Log(file=str(path)), out) as logs:
        logs.logger.info("hello", text="你好")
    assert json.loads(path.read_text())["text"] == "你好"
    assert "hello" in out.getvalue()


def test_file_is_opened_anew_after_it_was_moved_away(tmp_path: Path) -> None:
    path, old = tmp_path / "live.log", tmp_path / "live.log.1"
    with open_logs(Log(file=str(path)), io.StringIO()) as logs:
        logs.logger.info("one")
        path.rename(old)
        logs.logger.info("two")
        logs.reopen()
        logs.logger.info("three")
    assert [json.loads(line)["event"] for line in old.read_text().splitlines()] == ["one", "two"]
    assert json.loads(path.read_text())["event"] == "three"


def test_file_that_cannot_be_reopened_stays_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    out = io.StringIO()
    with open_logs(Log(file=str(folder / "live.log")), out) as logs:
        folder.rename(tmp_path / "moved")
        folder.write_text("a file where the folder should be")
        logs.reopen()
        logs.logger.info("still here")
    assert lines(out)[0]["event"] == "log file not reopened"
    assert "still here" in (tmp_path / "moved" / "live.log").read_text()


def test_without_a_file_there_is_nothing_to_reopen() -> None:
    out = io.StringIO()
    with open_logs(Log(), out) as logs:
        logs.reopen()
    assert out.getvalue() == ""


def test_line_that_cannot_be_written_is_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "live.log"
    with open_logs(Log(file=str(path)), FullDisk()) as logs:
        logs.logger.info("one")
        logs.logger.info("two")
        assert logs.statistics().lines == 2
        assert logs.statistics().dropped == {"stream": 2}
    assert len(path.read_text().splitlines()) == 2


def test_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), open_logs(Log(file=str(tmp_path)), io.StringIO()):
        pass
