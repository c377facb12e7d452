"""A value that shows itself to nobody who does not ask for it by name.  Pure."""

from __future__ import annotations

import hmac
from typing import NoReturn

MASK = "***"


class Secret:
    """A key or password.  Its text, repr, format and JSON are a mask, and it cannot be pickled or copied.

    Args:
        value: the secret itself, in UTF-8 where it is text.
    """

    __slots__ = ("__value",)

    def __init__(self, value: bytes) -> None:
        self.__value = value

    def reveal(self) -> bytes:
        """Return the secret itself."""
        return self.__value

    @property
    def is_text(self) -> bool:
        """Whether it is UTF-8."""
        try:
            self.__value.decode()
        except UnicodeDecodeError:
            return False
        return True

    def __len__(self) -> int:
        return len(self.__value)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.__value, other.reveal())

    def __hash__(self) -> int:
        # Constant: a hash of the value would tell something about it.
        return hash(Secret)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")
