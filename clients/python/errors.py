"""What can go wrong between a client and its conn server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio


class Closed(NamedTuple):
    """Why a connection ended: its close code (schema/closing.py) and reason."""

    code: int
    reason: str


class ClientError(Exception):
    """Every error that a client raises on its own account."""


class ConnectFailed(ClientError):
    """There is no server, it is no conn server, or it did not answer the upgrade in time."""


class Disconnected(ClientError):
    """The connection ended before the answer came; a message that was under way may have been taken.

    Attributes:
        closed: why it ended.
    """

    def __init__(self, closed: Closed) -> None:
        super().__init__(f"connection closed: {closed.code} {closed.reason}".rstrip())
        self.closed = closed


class NoAnswer(ClientError):
    """The server did not answer in time; a message may have been taken all the same."""


class RequestRefused(ClientError):
    """The server understood, and will not do it.

    Attributes:
        code: of schema/access.py `Code`; newer servers may know more.
        text: what the server says about it.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}".rstrip())
        self.code = code
        self.text = text


class SignInRefused(RequestRefused):
    """The token is not valid, or does not allow the room."""


class PublishRefused(RequestRefused):
    """The queue has not got the message."""


@contextmanager
def own_errors() -> Iterator[None]:
    """Let what the block raised leave as it is: the nursery around it is no business of the caller."""
    lone: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        # The client's own tasks do not raise, so there is one error at most besides cancellation.
        errors = [exc for exc in group.exceptions if not isinstance(exc, trio.Cancelled)]
        if len(errors) != 1:
            raise
        lone = errors[0]
    if lone is not None:
        context = lone.__context__
        try:
            raise lone
        finally:
            lone.__context__ = context
            del lone, context
