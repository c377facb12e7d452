"""What keeps a service from starting and is the operator's to mend, as opposed to defects.  Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_OPERATORS_ERRNO: Final = frozenset(
    {
        errno.EACCES,
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EISDIR,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
        # Of getaddrinfo, by their numbers in Linux, as `socket` is nothing for a pure module: EAI_NONAME,
        # EAI_AGAIN, EAI_NODATA, EAI_ADDRFAMILY.  A name that a setting says is not known, or not just now.
        *(-2, -3, -5, -9),
    }
)


class SetupError(Exception):
    """A service cannot start; the text is one line that says what to mend."""


@contextmanager
def setting_up(what: str) -> Iterator[None]:
    """Turn an operator's OSError into a `SetupError` that begins with `what`, such as "client port :8081".

    EINVAL is one here, where it is an address that says too little (link-local without its interface).

    Raises:
        SetupError: instead of the OSError.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno not in _OPERATORS_ERRNO and exc.errno != errno.EINVAL:
            raise
        raise SetupError(f"{what}: {exc.strerror}") from exc


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group of groups, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def setup_problems(error: BaseException) -> list[str] | None:
    """Return one line for each `SetupError`, or None if there is anything else in `error`."""
    problems: list[str] = []
    for leaf in leaves(error):
        if isinstance(leaf, SetupError):
            problems.append(str(leaf))
        elif isinstance(leaf, OSError) and leaf.errno in _OPERATORS_ERRNO:
            name = f"{leaf.filename}: " if leaf.filename else ""
            problems.append(f"{name}{leaf.strerror}")
        else:
            return None
    return list(dict.fromkeys(problems))
