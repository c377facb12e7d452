"""Tokens that are checked in the conn server itself."""

from __future__ import annotations

import pytest

from conn_server.tokens import LocalTokens
from schema.access import EXPIRED, Code, Refused
from schema.message import Level, Message
from schema.tokens import LIFETIME_S, TokenAuthority

KEY = b"a secret of thirty-two bytes, yes"
NOW = 1_700_000_000.0


class FakePublisher:
    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def publish(self, message: Message) -> None:
        self.messages.append(message)


async def test_token_is_judged_here() -> None:
    now = NOW
    tokens = TokenAuthority(KEY)
    local = LocalTokens(tokens, FakePublisher(), ("*",), lambda: now)
    token = tokens.issue("42", NOW)
    assert (await local.authenticate(token)).user == "42"
    now = NOW + LIFETIME_S + 1
    with pytest.raises(Refused) as caught:
        await local.authenticate(token)
    assert (caught.value.code, caught.value.text) == (Code.NOT_SIGNED_IN, EXPIRED)


async def test_token_without_rooms_may_join_those_of_the_settings() -> None:
    tokens = TokenAuthority(KEY)
    local = LocalTokens(tokens, FakePublisher(), ("lobby", "free-*"), lambda: NOW)
    grant = await local.authenticate(tokens.issue("42", NOW))
    assert [room for room in ("lobby", "free-1", "secret") if grant.may_join(room)] == ["lobby", "free-1"]


async def test_token_without_rooms_is_refused_where_there_are_none() -> None:
    tokens = TokenAuthority(KEY)
    with pytest.raises(Refused) as caught:
        await LocalTokens(tokens, FakePublisher(), (), lambda: NOW).authenticate(tokens.issue("42", NOW))
    assert caught.value.code is Code.FORBIDDEN


async def test_what_is_published_goes_to_logic() -> None:
    publisher = FakePublisher()
    message = Message("lobby", Level.NORMAL, b"x", 7, 1)
    await LocalTokens(TokenAuthority(KEY), publisher, ("*",), lambda: NOW).publish(message)
    assert publisher.messages == [message]
