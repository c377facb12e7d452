"""Log lines: structlog's own pipeline to stderr and, where asked for, to a file that can be rotated.

On a terminal a line is for people, elsewhere it is one JSON object; the file always gets JSON.  What the
dependencies log through the standard library comes out the same way.  A line that cannot be written (full
disk, reader gone) is dropped and counted, and one with a field that cannot be shown comes without its fields:
logging raises nothing.  It does wait: a pipe whose reader is there and does not read stops the service once
it is full, as it stops whoever writes to it.  journald reads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor, WrappedLogger

from runtime.secret import MASK, Secret
from runtime.sections import Log

_TELLTALE: Final = frozenset({"authorization", "key", "password", "secret", "token"})
_STANDARD: Final = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)
_LEVELS: Final[Mapping[str, int]] = MappingProxyType(
    {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
)


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """How many lines were written, and how many were not, by reason."""

    lines: int
    dropped: dict[str, int]


class Logs:
    """The outlet of all log lines of a process.  Owned by `open_logs`, and dies with its context.

    Attributes:
        logger: to be passed down.
    """

    def __init__(self, settings: Log, stream: TextIO) -> None:
        self._stream = stream
        self._console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
        self._render_json = structlog.processors.JSONRenderer(ensure_ascii=False)
        # Local variables of a traceback stay out of the log: they are long, and some are secret.
        self._tracebacks = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        self._render_console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        self._path = Path(settings.file) if settings.file else None
        self._lines = 0
        self._dropped: dict[str, int] = {}
        self._file = self._open_file()
        level = _LEVELS[settings.level]
        processors: list[Processor] = [
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            mask_secrets,
            self._render,
        ]
        self._pipeline: dict[str, Any] = {
            "processors": processors,
            "wrapper_class": structlog.make_filtering_bound_logger(level),
            "logger_factory": lambda *names: _Outlet(self, *names),
            "cache_logger_on_first_use": False,
        }
        self.logger = cast(
            "FilteringBoundLogger",
            structlog.wrap_logger(
                _Outlet(self), processors=processors, wrapper_class=self._pipeline["wrapper_class"]
            ),
        )
        # Dependencies log each request at INFO: theirs are shown from WARNING on, or all when debugging.
        self.foreign_level = level if level == logging.DEBUG else max(level, logging.WARNING)

    def configure(self) -> None:
        """Let `structlog.get_logger()` come out here as well."""
        structlog.configure(**self._pipeline)

    def reopen(self) -> None:
        """Open the file again under its name, after it was moved away; on failure the old one stays."""
        if self._path is None:
            return
        try:
            file = self._open_file()
        except OSError as exc:
            self.logger.warning("log file not reopened", file=str(self._path), error=str(exc))
            return
        self._file, old = file, self._file
        if old is not None:
            with suppress(OSError):
                old.close()

    def close(self) -> None:
        """Close the file; lines still go to the stream."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def statistics(self) -> LogStatistics:
        """Return the counts since the start."""
        return LogStatistics(self._lines, dict(self._dropped))

    def write(self, stream_line: str, file_line: str) -> None:
        """Write one line to stream and file; never raises."""
        self._lines += 1
        self._write(self._stream, stream_line, "stream")
        if self._file is not None:
            self._write(self._file, file_line, "file")

    def _write(self, out: TextIO, line: str, where: str) -> None:
        try:
            out.write(f"{line}\n")
            out.flush()
        except (OSError, ValueError):  # ValueError: closed under us
            self._dropped[where] = self._dropped.get(where, 0) + 1

    def _open_file(self) -> TextIO | None:
        if self._path is None:
            return None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("a", encoding="utf-8", errors="backslashreplace")

    def _render(self, logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> tuple[Any, ...]:
        """Render once for each form that is wanted."""
        # Taken before, as renderers take out what they show.
        plain = {name: event.get(name) for name in ("event", "level", "time")}
        try:
            return self._rendered(logger, method, event)
        except Exception as exc:  # whatever a field's own repr raises, or a structure that contains itself
            self._dropped["fields"] = self._dropped.get("fields", 0) + 1
            if not isinstance(plain["event"], str):
                plain["event"] = ""
            plain["not_shown"] = type(exc).__name__
            return self._rendered(logger, method, plain)

    def _rendered(
        self, logger: WrappedLogger, method: str, event: MutableMapping[str, Any]
    ) -> tuple[Any, ...]:
        if not self._console:
            line = self._as_json(logger, method, event)
            return (line, line), {}
        file_line = self._as_json(logger, method, dict(event)) if self._file is not None else ""
        return (str(self._render_console(logger, method, event)), file_line), {}

    def _as_json(self, logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> str:
        event = self._tracebacks(logger, method, event)
        return str(self._render_json(logger, method, event))


class _Outlet:
    """What structlog calls a logger: takes a rendered line, whatever its level."""

    def __init__(self, logs: Logs, *names: str) -> None:
        self._logs = logs
        self.name = names[0] if names else ""

    def msg(self, stream_line: str, file_line: str) -> None:
        self._logs.write(stream_line, file_line)

    debug = info = warning = error = critical = exception = log = msg


class _Bridge(logging.Handler):
    """Takes what dependencies log through the standard library."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit are no reason to lose the line
            text = str(record.msg)
        # structlog knows the standard levels alone; one in between counts as the next below.
        level = next((each for each in _STANDARD if each <= record.levelno), logging.DEBUG)
        self._logger.log(level, text, **fields)


def mask_secrets(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask what is a secret by type or by name; a processor of structlog."""
    for name, value in event.items():
        if isinstance(value, Secret) or name.lower() in _TELLTALE:
            event[name] = MASK
    return event


@contextmanager
def open_logs(settings: Log, stream: TextIO) -> Iterator[Logs]:
    """Open the log outlet of this process and route the standard library's and structlog's loggers to it.

    Args:
        settings: `[log]`.
        stream: usually stderr; it is not closed.

    Raises:
        OSError: the file cannot be opened.
    """
    logs = Logs(settings, stream)
    before = structlog.get_config()
    root = logging.getLogger()
    bridge, root_level = _Bridge(logs.logger), root.level
    logs.configure()
    root.addHandler(bridge)
    root.setLevel(logs.foreign_level)
    logging.captureWarnings(capture=True)
    try:
        yield logs
    finally:
        logging.captureWarnings(capture=False)
        root.setLevel(root_level)
        root.removeHandler(bridge)
        structlog.configure(**before)
        logs.close()
