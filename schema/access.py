"""What logic answers: what a token allows, or why something is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from schema.proto.logic_pb2 import AuthReply


class Code(IntEnum):
    """The codes of `Err`, to clients and between services."""

    OK = 0
    NOT_SIGNED_IN = 100
    BAD_REQUEST = 400
    FORBIDDEN = 403
    TOO_LARGE = 413
    TOO_FAST = 429
    UNAVAILABLE = 503


class Refused(Exception):
    """The request is understood and will not be done; trying the same again is no use.

    Attributes:
        code: what kind of refusal.
        text: what to tell the caller.
    """

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class Unavailable(Exception):
    """Nobody could be asked, or the queue has not got it; try again later.

    Attributes:
        text: what to tell the caller.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


EVERY_ROOM: Final = ("*",)
EXPIRED: Final = "登录信息过期"
INVALID: Final = "无效token"
BAD_SIGNATURE: Final = "signature is invalid"
BAD_SEGMENTS: Final = "token contains an invalid number of segments"
NOT_YET_VALID: Final = "token is not valid yet"
SIGN_IN_FIRST: Final = "请登录"
NO_ROOM_OR_DATA: Final = "缺少roomID或data参数"


def go_error_text(text: str) -> str:
    """Return `text` as the Go system shows a logic server's refusal to its clients."""
    return f"rpc error: code = Unknown desc = {text}"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid token allows.

    Attributes:
        uid: the user as a number, 0 where the token's uid is not numeric.
        user: the user as text; what others see as sender.
        expires_at_s: Unix time when the token ends; 0 where unknown (a Go logic server).
        rooms: the rooms that may be joined; a trailing `*` matches any rest; empty: all.
        may_post: may publish.
        may_important: may mark what it publishes as IMPORTANT.
    """

    uid: int
    user: str
    expires_at_s: int = 0
    rooms: tuple[str, ...] = ()
    may_post: bool = True
    may_important: bool = True

    def may_join(self, room: str) -> bool:
        """Say whether the token allows `room`."""
        return not self.rooms or any(
            room.startswith(name[:-1]) if name.endswith("*") else room == name for name in self.rooms
        )

    def within(self, open_rooms: tuple[str, ...]) -> Grant:
        """Return the grant with `open_rooms` as the rooms that may be joined where its token names none.

        Raises:
            Refused: FORBIDDEN: there are none either.
        """
        if self.rooms or "*" in open_rooms:
            return self
        if not open_rooms:
            raise Refused(Code.FORBIDDEN, "the token names no rooms")
        return replace(self, rooms=open_rooms)

    def to_reply(self) -> AuthReply:
        """Return the `AuthReply` of this grant."""
        return AuthReply(
            uid=self.uid,
            nickname=self.user,
            expires_at_s=self.expires_at_s,
            rooms=self.rooms,
            may_post=self.may_post,
            may_important=self.may_important,
        )

    @classmethod
    def of_reply(cls, reply: AuthReply) -> Grant:
        """Read an `AuthReply`; what a Go logic server leaves out is allowed."""
        return cls(
            uid=reply.uid,
            user=reply.nickname,
            expires_at_s=reply.expires_at_s,
            rooms=tuple(reply.rooms),
            may_post=reply.may_post if reply.HasField("may_post") else True,
            may_important=reply.may_important if reply.HasField("may_important") else True,
        )
