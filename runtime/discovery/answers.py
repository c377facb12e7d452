"""What etcd's JSON gateway answers, as records, and what it refuses, as errors.  Pure.

Integers of 64 bits are JSON strings, fields that are zero are left out, keys and values are base64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

OK: Final = 200

_INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
_PERMISSION_DENIED: Final = 7
FAILED_PRECONDITION: Final = 9
_OUT_OF_RANGE: Final = 11
_UNAUTHENTICATED: Final = 16
# What the cluster has decided: another endpoint would say the same.
_DECISIONS: Final = frozenset(
    {_INVALID_ARGUMENT, NOT_FOUND, _PERMISSION_DENIED, FAILED_PRECONDITION, _OUT_OF_RANGE, _UNAUTHENTICATED}
)
_TOKEN_PROBLEMS: Final = ("invalid auth token", "user name is empty", "revision of auth store is old")
_ENDPOINT_PROBLEMS: Final = frozenset({"connection", "deadline", "ended", "garbage", "unavailable"})


class EtcdError(Exception):
    """No usable answer, or a watch that has ended.

    Attributes:
        reason: to count by.  `connection`, `deadline`, `ended`, `garbage` and `unavailable` are an
            endpoint's, and another may be better; `refused`, `token`, `compacted`, `wiped`, `canceled`
            and `idle` are not.
        code: gRPC's, where etcd has given one.
    """

    def __init__(self, reason: str, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.reason = reason
        self.code = code

    @property
    def is_endpoints(self) -> bool:
        """Whether another endpoint may be better."""
        return self.reason in _ENDPOINT_PROBLEMS


class Answer(msgspec.Struct, frozen=True):
    """Any answer, of which only the arrival matters."""


class Header(msgspec.Struct, frozen=True):
    """Which state of the store an answer is about."""

    revision: int = 0


class KeyValue(msgspec.Struct, frozen=True):
    """One key; a deleted one has no value."""

    key: bytes
    value: bytes = b""


class Listed(Answer, frozen=True):
    """Of `kv/range`."""

    header: Header
    kvs: list[KeyValue] = []


class Granted(Answer, frozen=True):
    """Of `lease/grant`."""

    lease: int = msgspec.field(name="ID")
    ttl: int = msgspec.field(name="TTL")


class Lease(msgspec.Struct, frozen=True):
    """What is left of a lease."""

    ttl: int = msgspec.field(default=0, name="TTL")


class Kept(Answer, frozen=True):
    """Of `lease/keepalive`: a lease that there is not has no seconds."""

    result: Lease


class Transacted(Answer, frozen=True):
    """Of `kv/txn`: whether all comparisons held."""

    succeeded: bool = False


class Authenticated(Answer, frozen=True):
    """Of `auth/authenticate`."""

    token: str


@dataclass(frozen=True, slots=True)
class Change:
    """One key that was set, or deleted where `value` is None."""

    key: bytes
    value: bytes | None


class _Event(msgspec.Struct, frozen=True):
    kv: KeyValue
    type: str = "PUT"


class _Watched(msgspec.Struct, frozen=True):
    header: Header | None = None
    events: list[_Event] = []
    compact_revision: int = 0
    canceled: bool = False
    cancel_reason: str = ""


class _StreamFailure(msgspec.Struct, frozen=True):
    message: str = ""
    grpc_code: int = 0


class _WatchLine(msgspec.Struct, frozen=True):
    result: _Watched | None = None
    error: _StreamFailure | None = None


class _Failure(msgspec.Struct, frozen=True):
    code: int = 0
    error: str = ""


A = TypeVar("A", bound=msgspec.Struct)


def decoded(content: bytes, answer: type[A]) -> A:
    """Return an answer as its record.

    Raises:
        EtcdError: it is something else; a reverse proxy, or another program at this address.
    """
    try:
        # Not strict: integers of 64 bits are strings.
        return msgspec.json.decode(content, type=answer, strict=False)
    except msgspec.MsgspecError as exc:
        raise EtcdError("garbage", f"not etcd's answer: {exc}") from exc


def refusal(status: int, content: bytes) -> EtcdError:
    """Return what a status other than 200 means."""
    try:
        failure = decoded(content, _Failure)
    except EtcdError:
        return EtcdError("garbage", f"HTTP status {status} without etcd's reason")
    return _failed(failure.code, failure.error or f"HTTP status {status}")


def watched(line: bytes, listed: int) -> list[Change]:
    """Return the changes in one line of a watch that began after the revision `listed`.

    Raises:
        EtcdError: the watch ends with this line.
    """
    message = decoded(line, _WatchLine)
    if message.error is not None:
        raise _failed(message.error.grpc_code, message.error.message)
    if message.result is None:
        raise EtcdError("garbage", "a line with neither result nor error")
    result = message.result
    if result.compact_revision:
        raise EtcdError("compacted", f"the history begins at revision {result.compact_revision}")
    if result.canceled:
        raise EtcdError(_reason(result.cancel_reason, "canceled"), f"canceled: {result.cancel_reason}")
    if result.header is not None and result.header.revision < listed:
        raise EtcdError("wiped", f"etcd is back at revision {result.header.revision}, before {listed}")
    return [
        Change(event.kv.key, None if event.type == "DELETE" else event.kv.value) for event in result.events
    ]


def _failed(code: int, text: str) -> EtcdError:
    reason = "refused" if code in _DECISIONS else "unavailable"
    return EtcdError(_reason(text, reason), text, code)


def _reason(text: str, otherwise: str) -> str:
    return "token" if any(problem in text for problem in _TOKEN_PROBLEMS) else otherwise
