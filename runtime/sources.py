"""Where settings come from: a TOML file with its line numbers, the environment, and files with secrets."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.failures import SetupError
from runtime.secret import Secret

PREFIX: Final = "ROOMCAST_"
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
_NESTING: Final = "__"
_MAX_SECRET_BYTES: Final = 64 * 1024


class SettingsError(SetupError):
    """Settings with which the service does not start; the text says where and what."""


@dataclass(frozen=True, slots=True)
class Given:
    """One key that was set, and by what."""

    key: tuple[str, ...]
    value: Any
    source: str


def fold(key: str) -> str:
    """Return the form in which names are compared: no case, no underscores."""
    return key.replace("_", "").lower()


def folded_key(key: Iterable[str]) -> tuple[str, ...]:
    """Return the form in which dotted keys are compared."""
    return tuple(map(fold, key))


def from_file(path: Path) -> Iterator[Given]:
    """Yield what a TOML file sets, each with its line.

    Raises:
        SettingsError: not readable, not TOML, or a key in two spellings.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        tables = tomllib.loads(text)
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from exc
    except ValueError as exc:  # UnicodeDecodeError and TOMLDecodeError
        raise SettingsError(f"{path}: {exc}") from exc
    lines = line_numbers(text)
    seen: dict[tuple[str, ...], str] = {}
    for key, value in _flat(tables, ()):
        number = lines.get(key)
        source = f"{path}:{number}" if number else str(path)
        before = seen.setdefault(folded_key(key), source)
        if before is not source:
            raise SettingsError(f"{source}: {'.'.join(key)} was set before, at {before}")
        yield Given(key, value, source)


def _flat(table: Mapping[str, Any], prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, (*prefix, name))
        else:
            yield (*prefix, name), value


_TABLE_LINE: Final = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY_LINE: Final = re.compile(r"""\s*([A-Za-z0-9_.\-"' ]+?)\s*=""")


def line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """Return key -> line of a TOML text, for messages: tomllib keeps no positions.

    Strings over several lines may fool it; a key that it has not seen has no line.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if match := _TABLE_LINE.match(line):
            table = _names(match[1])
        elif match := _KEY_LINE.match(line):
            found.setdefault((*table, *_names(match[1])), number)
    return found


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(name.strip(" \t\"'") for name in dotted.split("."))


def from_environment(environ: Mapping[str, str]) -> Iterator[Given]:
    """Yield what `ROOMCAST_SECTION__KEY` variables set; others are left alone."""
    for name, value in sorted(environ.items()):
        if name.startswith(PREFIX) and _NESTING in name:
            yield Given(tuple(name.removeprefix(PREFIX).split(_NESTING)), value, f"environment {name}")


def read_secret(name: str, environ: Mapping[str, str]) -> tuple[Secret, str] | None:
    """Return a secret and where it came from; the line end of a file is not part of it.

    Raises:
        SettingsError: there is such a file, and it cannot be read.
    """
    variable = f"{PREFIX}{name.upper()}"
    if variable in environ:
        return Secret(environ[variable].encode(errors="surrogateescape")), f"environment {variable}"
    if not environ.get(CREDENTIALS):
        return None
    path = Path(environ[CREDENTIALS]) / name
    try:
        with path.open("rb") as file:
            value = file.read(_MAX_SECRET_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from exc
    if len(value) > _MAX_SECRET_BYTES:
        raise SettingsError(f"{path}: over {_MAX_SECRET_BYTES} bytes, that is no secret")
    return Secret(value.removesuffix(b"\n").removesuffix(b"\r")), f"file {path}"
