"""Why a connection was closed: code, reason, and whether the client may come back.

RFC 6455 section 7.4 gives 1000-1015; 4000-4999 are ours.  A Go-era client just sees the close.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class CloseCode(IntEnum):
    """The close codes that a conn server sends, and 1006 for "no close frame came"."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_PAYLOAD = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SIGN_IN_TIMEOUT = 4001
    HEARTBEAT_TIMEOUT = 4002
    REFUSED = 4003
    TOKEN_EXPIRED = 4004
    SLOW_CONSUMER = 4008
    TOO_MANY_REQUESTS = 4029
    KICKED = 4100


@dataclass(frozen=True, slots=True)
class Closing:
    """What a close code tells the client.

    Attributes:
        reason: default text of the close frame, at most 123 bytes.
        reconnect: whether coming back (after a back-off) can help.
    """

    reason: str
    reconnect: bool


CLOSINGS: Final = MappingProxyType(
    {
        CloseCode.NORMAL: Closing("", reconnect=False),
        CloseCode.GOING_AWAY: Closing("draining", reconnect=True),
        CloseCode.PROTOCOL_ERROR: Closing("protocol error", reconnect=False),
        CloseCode.UNSUPPORTED_DATA: Closing("unsupported data", reconnect=False),
        CloseCode.NO_STATUS: Closing("", reconnect=True),
        CloseCode.ABNORMAL: Closing("connection lost", reconnect=True),
        CloseCode.INVALID_PAYLOAD: Closing("text is not UTF-8", reconnect=False),
        CloseCode.TOO_BIG: Closing("message too big", reconnect=False),
        CloseCode.INTERNAL_ERROR: Closing("internal error", reconnect=True),
        CloseCode.SIGN_IN_TIMEOUT: Closing("no sign-in in time", reconnect=True),
        CloseCode.HEARTBEAT_TIMEOUT: Closing("no heartbeat in time", reconnect=True),
        CloseCode.REFUSED: Closing("refused", reconnect=False),
        CloseCode.TOKEN_EXPIRED: Closing("token expired, come back with a new one", reconnect=True),
        CloseCode.SLOW_CONSUMER: Closing("reads too slowly", reconnect=True),
        CloseCode.TOO_MANY_REQUESTS: Closing("too many requests", reconnect=True),
        CloseCode.KICKED: Closing("kicked", reconnect=False),
    }
)


def draining_reason(retry_after_ms: int) -> str:
    """Return the reason of a 1001: when the client should come back."""
    return f'{{"retry_after_ms":{retry_after_ms}}}'
