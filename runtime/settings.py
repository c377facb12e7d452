"""Settings from a TOML file, the environment and arguments: typed, checked, each with its source.

sources.py does the reading; everything here is pure.

Rules
1. Later wins: default, file, environment (`ROOMCAST_SECTION__KEY`), argument.
2. Sections and keys are compared without case and underscores (the Go system ignores case).
3. What is not known is refused with its source and the nearest known key; nothing is ignored silently.
4. Secrets come from the environment or from `$CREDENTIALS_DIRECTORY` only, never from a settings file.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

import click
import msgspec
from msgspec.structs import FieldInfo, fields

from runtime.sections import Section
from runtime.sources import (
    CREDENTIALS,
    PREFIX,
    Given,
    SettingsError,
    folded_key,
    from_environment,
    from_file,
    read_secret,
)
from runtime.units import Notation

__all__ = ["Loaded", "SettingsError", "check_option", "conf_option", "describe", "load", "to_toml"]

S = TypeVar("S", bound=Section)
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Settings and where they came from.

    Attributes:
        settings: the record, defaults filled in.
        provenance: dotted key -> source, for what is not a default.
        without_meaning: keys of the Go system that were given and change nothing, to be said once in the log.
        path: the file that was read.
    """

    settings: S
    provenance: Mapping[str, str] = field(default_factory=dict)
    without_meaning: tuple[str, ...] = ()
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One key that can be set."""

    dotted: str
    info: FieldInfo
    default: Any

    @property
    def notation(self) -> Notation | None:
        notation = _extra(self.info).get("notation")
        return notation if isinstance(notation, Notation) else None

    @property
    def secret_name(self) -> str:
        return str(_extra(self.info).get("secret", ""))


def load(
    settings_type: type[S],
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> Loaded[S]:
    """Return the settings of one service.

    Args:
        settings_type: the service's record; all its fields have defaults.
        path: a TOML file; None is defaults and what the environment says.
        environ: the environment, `$CREDENTIALS_DIRECTORY` included.
        overrides: dotted key -> value as it would stand in the file; wins over everything.

    Raises:
        SettingsError: unreadable, unknown, of a wrong type, or contradictory.
    """
    defaults = settings_type()
    leaves = {folded_key(leaf.dotted.split(".")): leaf for leaf in _leaves(defaults)}
    ignored = {folded_key(dotted.split(".")): dotted for dotted in _without_meaning(defaults)}
    given = [
        *(from_file(path) if path is not None else ()),
        *from_environment(environ),
        *(Given(tuple(key.split(".")), value, "argument") for key, value in (overrides or {}).items()),
    ]
    changes: dict[str, Any] = {}
    provenance: dict[str, str] = {}
    without_meaning: dict[str, None] = {}
    for item in given:
        folded = folded_key(item.key)
        if folded in ignored:
            without_meaning[ignored[folded]] = None
            continue
        if item.value == {} and any(key[: len(folded)] == folded for key in (*leaves, *ignored)):
            continue  # a section with nothing in it
        leaf = leaves.get(folded)
        if leaf is None or leaf.secret_name:
            raise SettingsError(_why_not(item, leaf, leaves))
        changes[leaf.dotted] = _converted(leaf, item)
        provenance[leaf.dotted] = item.source
    for leaf in leaves.values():
        if leaf.secret_name and (found := read_secret(leaf.secret_name, environ)) is not None:
            changes[leaf.dotted], provenance[leaf.dotted] = found
    settings = _rebuilt(defaults, changes, "", str(path) if path else "settings")
    return Loaded(settings, provenance, tuple(without_meaning), path)


def _extra(info: FieldInfo) -> Mapping[str, object]:
    merged: dict[str, object] = {}
    if get_origin(info.type) is Annotated:
        for meta in get_args(info.type)[1:]:
            if isinstance(meta, msgspec.Meta):
                merged.update(meta.extra or {})
    return merged


def _leaves(section: Section, prefix: str = "") -> Iterator[_Leaf]:
    """Yield all keys of a record in their order, those of nested sections included."""
    for info in fields(section):
        if info.encode_name in section.NOT_HERE:
            continue
        value = getattr(section, info.name)
        dotted = f"{prefix}{info.encode_name}"
        if isinstance(value, Section):
            hidden = tuple(
                name.removeprefix(f"{info.encode_name}.")
                for name in section.NOT_HERE
                if name.startswith(f"{info.encode_name}.")
            )
            for leaf in _leaves(value, f"{dotted}."):
                inner = leaf.dotted.removeprefix(f"{dotted}.")
                if not any(inner == name or inner.startswith(f"{name}.") for name in hidden):
                    yield leaf
        else:
            yield _Leaf(dotted, info, value)


def _without_meaning(section: Section, prefix: str = "") -> Iterator[str]:
    yield from (f"{prefix}{key}" for key in section.WITHOUT_MEANING)
    for info in fields(section):
        value = getattr(section, info.name)
        if isinstance(value, Section):
            yield from _without_meaning(value, f"{prefix}{info.encode_name}.")


def _why_not(item: Given, leaf: _Leaf | None, leaves: Mapping[tuple[str, ...], _Leaf]) -> str:
    given = ".".join(item.key)
    if leaf is not None:
        name = leaf.secret_name
        return (
            f"{item.source}: {given} is a secret and never stands in settings: "
            f"use {PREFIX}{name.upper()}, or a file {name} in ${CREDENTIALS}"
        )
    if any(key[: len(item.key)] == folded_key(item.key) for key in leaves):
        return f"{item.source}: {given}: expected a section, got {_kind(item.value)}"
    known = {".".join(key): leaf.dotted for key, leaf in leaves.items() if not leaf.secret_name}
    nearest = difflib.get_close_matches(".".join(folded_key(item.key)), known, n=1, cutoff=0.5)
    hint = f"; did you mean {known[nearest[0]]}?" if nearest else ""
    return f"{item.source}: {given} is not a setting{hint}"


def _kind(value: object) -> str:
    return "an array" if isinstance(value, list) else f"{value!r}"


def _converted(leaf: _Leaf, item: Given) -> Any:
    value = item.value
    try:
        if item.source.startswith("environment"):
            value = _from_text(leaf, value)
        if leaf.notation is not None:
            value = leaf.notation.parse(value)
        return msgspec.convert(value, leaf.info.type)
    except msgspec.ValidationError as exc:
        problem = str(exc).replace("`", "")
        raise SettingsError(f"{item.source}: {leaf.dotted}: {problem}, got {_kind(item.value)}") from None
    except ValueError as exc:
        raise SettingsError(
            f"{item.source}: {leaf.dotted}: expected {exc}, got {_kind(item.value)}"
        ) from None


def _from_text(leaf: _Leaf, text: str) -> Any:
    """Read a value of the environment: a number or a boolean as in TOML, an array also with commas."""
    if isinstance(leaf.default, tuple) and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(leaf.default, str):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _rebuilt(section: S, changes: Mapping[str, Any], prefix: str, where: str) -> S:
    """Return `section` with `changes` (dotted keys); each record checks itself when it is made."""
    values: dict[str, Any] = {}
    for info in fields(section):
        dotted, value = f"{prefix}{info.encode_name}", getattr(section, info.name)
        if isinstance(value, Section):
            values[info.name] = _rebuilt(value, changes, f"{dotted}.", where)
        else:
            values[info.name] = changes.get(dotted, value)
    try:
        return type(section)(**values)
    except ValueError as exc:
        raise SettingsError(f"{where}: {prefix}{exc}") from None


def describe(loaded: Loaded[Any]) -> str:
    """Return the effective settings as TOML, each with where it came from, secrets masked.

    What comes out can be read again and means the same.
    """
    lines: list[str] = []
    section = None
    for leaf in _leaves(loaded.settings):
        head, _, key = leaf.dotted.rpartition(".")
        if head != section:
            section = head
            lines += ["", f"[{head}]"]
        source = loaded.provenance.get(leaf.dotted, "default")
        if leaf.secret_name:
            shown = f"# {key} = {leaf.default}" if leaf.default is not None else f"# {key} is not set"
            lines.append(f"{shown:<40} # {source}" if leaf.default is not None else shown)
            continue
        value = leaf.default if leaf.notation is None else leaf.notation.write(leaf.default)
        lines.append(f"{f'{key} = {to_toml(value)}':<40} # {source}")
    lines += [f"# {key} was given and has no meaning here" for key in loaded.without_meaning]
    return "\n".join(lines[1:]) + "\n"


def to_toml(value: object) -> str:
    """Return a value of a settings record as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda c: f"\\u{ord(c.group()):04x}", quoted) + '"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(to_toml, value))}]"
    return repr(value)


def conf_option(default: str | None = None) -> Callable[[F], F]:
    """Add the flag `-conf FILE`, `-conf=FILE` or `--conf FILE`, as the Go system takes it, to a command.

    Args:
        default: name of a file in the working directory that is read if it is there and the flag is not;
            without both, the service runs on defaults and what the environment says.
    """

    def chosen(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
        if value is None and default is not None and Path(default).is_file():
            return Path(default)
        return value

    return click.option(
        "-conf",
        "--conf",
        "conf",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=chosen,
        help=f"Settings, TOML.  [default: {default}, if it is there]" if default else "Settings, TOML.",
    )


def check_option() -> Callable[[F], F]:
    """Add the flag `--check`: print the effective settings and where each came from."""
    return click.option("--check", is_flag=True, help="Print the effective settings, and serve nothing.")
