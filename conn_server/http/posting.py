"""What `POST /msg` does once its body is there (wire.md 1.2, HTTP).

token ─▶ fields ─▶ may this user post that? ─▶ queue ─▶ answer
                                a key that was seen ─▶ the same answer
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import trio

from conn_server.client import Logic
from conn_server.http.answers import (
    FAILURE,
    NO_PARAMETERS,
    SIGN_IN,
    SUCCEEDED,
    SUCCESS,
    Answer,
    make_answer,
    refusal,
)
from conn_server.http.idempotency import ReplayStatistics, ReplayWindow, digest_of
from conn_server.origin import Origin
from conn_server.settings import Http
from schema.access import INVALID, Code, Grant, Refused, Unavailable, go_error_text
from schema.gojson import encode_string
from schema.message import Level
from schema.names import room_problem

MAX_KEY_CHARACTERS: Final = 255


@dataclass(frozen=True, slots=True)
class Post:
    """A request as it came.

    Attributes:
        token: empty: there is none.
        fields: None: the body could not be read.
        key: its Idempotency-Key; empty: it has none.
    """

    token: str
    fields: Mapping[str, str] | None
    key: str = ""


@dataclass(frozen=True, slots=True)
class PostingStatistics:
    """Messages accepted and requests refused (by reason) since the start, and the replay window."""

    accepted: int
    refusals: dict[str, int]
    replays: ReplayStatistics


class Posting:
    """Checks posts and hands them to logic.  Owned by the conn server's app.

    Args:
        logic: checks tokens and takes messages.
        origin: stamps messages.
        settings: `[http]`.
        max_data_bytes: of one message, as pushed.
    """

    def __init__(self, logic: Logic, origin: Origin, settings: Http, max_data_bytes: int) -> None:
        self._logic = logic
        self._origin = origin
        self._timeout_s = settings.request_timeout_s
        self._is_readme = settings.codes == "readme"
        self._max_data_bytes = max_data_bytes
        self._replays = ReplayWindow[trio.Event, Answer](settings.replay_window_s, settings.replay_keys)
        self._accepted = 0
        self._refusals: Counter[str] = Counter()

    def statistics(self) -> PostingStatistics:
        """Return what there is now and was so far."""
        return PostingStatistics(self._accepted, dict(self._refusals), self._replays.statistics())

    async def post(self, post: Post) -> Answer:
        """Return the answer, within `requestTimeout`.

        When it is cancelled nobody knows whether the queue has the message.
        """
        if not post.token:
            self._refusals["no_token"] += 1
            return SIGN_IN if self._is_readme else make_answer(FAILURE, INVALID)
        with trio.move_on_after(self._timeout_s):
            try:
                grant = await self._logic.authenticate(post.token)
            except (Refused, Unavailable) as error:
                return self._not_signed_in(error)
            return await self._publish(grant, post)
        return self._unavailable("no answer in time, try again")

    async def _publish(self, grant: Grant, post: Post) -> Answer:
        if post.fields is None:
            return self._refuse("malformed")
        room, text = post.fields.get("room_id", ""), post.fields.get("msg", "")
        if not room or not text:
            return self._refuse("missing_field")
        if len(post.key) > MAX_KEY_CHARACTERS:
            return self._refuse("key")
        data = encode_string(text)
        problem = self._problem(grant, room, data)
        if problem is not None:
            code, reason, why = problem
            return self._refuse(reason, refusal(code, why))
        if not post.key:
            return await self._enqueue(grant, room, data)
        return await self._enqueue_once(digest_of(grant.user, post.key), grant, room, data)

    def _problem(self, grant: Grant, room: str, data: bytes) -> tuple[Code, str, str] | None:
        """Say why the message may not be: code, reason for the counter, text for the caller."""
        if (name := room_problem(room)) is not None:
            return Code.BAD_REQUEST, "room_name", name
        if len(data) > self._max_data_bytes:
            return Code.TOO_LARGE, "too_large", f"the message is over {self._max_data_bytes} bytes"
        if not grant.may_join(room):
            return Code.FORBIDDEN, "may_not_join", "the token does not allow this room"
        if not grant.may_post:
            return Code.FORBIDDEN, "may_not_post", "the token does not allow posting"
        if not grant.may_important:
            return Code.FORBIDDEN, "may_not_important", "the token does not allow IMPORTANT"
        return None

    async def _enqueue_once(self, digest: bytes, grant: Grant, room: str, data: bytes) -> Answer:
        """Enqueue unless that has been done; wait for a request with the same key that is doing it."""
        while True:
            known = self._replays.replay(digest, trio.current_time())
            if known is not None:
                return known
            running = self._replays.running(digest)
            if running is None:
                break
            await running.wait()
        # No await between the look above and `start`.
        done = trio.Event()
        self._replays.start(digest, done)
        answer: Answer | None = None
        try:
            answer = await self._enqueue(grant, room, data)
        finally:
            succeeded = answer if answer is not None and answer.code == SUCCESS else None
            self._replays.finish(digest, succeeded, trio.current_time())
            done.set()
        return answer

    async def _enqueue(self, grant: Grant, room: str, data: bytes) -> Answer:
        try:
            await self._logic.publish(self._origin.stamp(room, Level.IMPORTANT, data, grant.user))
        except Unavailable as error:
            return self._unavailable(error.text)
        except Refused as error:
            return self._refuse("publish_refused", refusal(error.code, error.text))
        self._accepted += 1
        return SUCCEEDED

    def _not_signed_in(self, error: Refused | Unavailable) -> Answer:
        if isinstance(error, Unavailable):  # 1001 would log the user out for our fault
            return self._unavailable(error.text)
        if error.code is not Code.NOT_SIGNED_IN:
            return self._refuse("sign_in_refused", refusal(error.code, error.text))
        text = go_error_text(error.text)
        return self._refuse("token", SIGN_IN if self._is_readme else make_answer(FAILURE, text))

    def _unavailable(self, text: str) -> Answer:
        return self._refuse("unavailable", make_answer(FAILURE, text))

    def _refuse(self, reason: str, answer: Answer = NO_PARAMETERS) -> Answer:
        self._refusals[reason] += 1
        return answer
