"""What can go wrong between us and an nsqd.  None of these leaves runtime/queue/nsq."""

from __future__ import annotations


class NsqError(Exception):
    """A connection or a command failed.

    Attributes:
        reason: a word for counters: why.
    """

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(f"{reason}: {text}" if text else reason)
        self.reason = reason


class ProtocolError(NsqError):
    """The peer sent bytes that are no frame; nothing after them can be believed."""

    def __init__(self, text: str) -> None:
        super().__init__("protocol", text)


class CommandRefused(NsqError):
    """nsqd answered with an error frame.

    Attributes:
        code: nsqd's word for it, such as E_BAD_MESSAGE; it is the `reason` as well.
        text: nsqd's explanation.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class ConnectionLost(NsqError):
    """The connection ended.  What was unanswered may or may not have been done."""


class NotDone(ConnectionLost):
    """The connection ended, and nsqd certainly has not looked at this command: it refused an earlier
    one, and it does one after the other.
    """
