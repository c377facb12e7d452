"""What logic answers: grants as records and on the wire, with what a Go logic server leaves out."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from schema.access import Code, Grant, Refused, Unavailable, go_error_text
from schema.proto.logic_pb2 import AuthReply

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
grants = st.builds(
    Grant,
    uid=st.integers(-(2**31), 2**31 - 1),
    user=text,
    expires_at_s=st.integers(0, 2**62),
    rooms=st.lists(text, max_size=4).map(tuple),
    may_post=st.booleans(),
    may_important=st.booleans(),
)


@given(grants)
def test_any_grant_comes_back_as_it_was(grant: Grant) -> None:
    assert Grant.of_reply(AuthReply.FromString(grant.to_reply().SerializeToString())) == grant


def test_what_a_go_logic_server_leaves_out_is_allowed() -> None:
    grant = Grant.of_reply(AuthReply.FromString(b"\x08\x2a\x12\x0242"))
    assert grant == Grant(uid=42, user="42")
    assert grant.may_join("any room")
    assert grant.may_post
    assert grant.may_important


def test_fields_of_the_go_system_come_first_and_unchanged() -> None:
    assert Grant(7, "7").to_reply().SerializeToString().startswith(b"\x08\x07\x12\x017")
    assert not Grant(7, "7", 1, ("a",)).to_reply().roomID


@pytest.mark.parametrize(
    ("rooms", "room", "allowed"),
    [
        ((), "anything", True),
        (("a",), "a", True),
        (("a",), "ab", False),
        (("a", "b-*"), "b-1", True),
        (("b-*",), "b-", True),
        (("b-*",), "b", False),
        (("*",), "anything", True),
        (("a*b",), "axb", False),
    ],
)
def test_token_allows_the_rooms_that_it_names(rooms: tuple[str, ...], room: str, allowed: bool) -> None:
    assert Grant(1, "1", rooms=rooms).may_join(room) is allowed


def test_refusal_is_shown_as_the_go_system_shows_it() -> None:
    assert go_error_text("无效token") == "rpc error: code = Unknown desc = 无效token"


def test_errors_say_what_to_tell_the_caller() -> None:
    assert (Refused(Code.TOO_FAST, "slow down").code, Refused(Code.TOO_FAST, "slow down").text) == (
        429,
        "slow down",
    )
    assert Unavailable("later").text == "later"
