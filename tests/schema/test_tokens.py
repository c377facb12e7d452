"""Tokens: golden ones made and judged by the Go system's own code, both ways; and keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from schema.access import BAD_SEGMENTS, BAD_SIGNATURE, Code, Refused
from schema.tokens import LIFETIME_S, MIN_KEY_BYTES, TokenAuthority, TokenStatistics, check_key
from tests.vectors import Vector, each, load_file

SECRET = bytes.fromhex(load_file("jwt")["secret_hex"])
NOW = 1_700_000_000
PUBLIC_KEY = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: dict[str, Any], *, header: bytes = b'{"alg":"HS256","typ":"JWT"}') -> str:
    """Return a token made without the code under test."""
    body = f"{base64url(header)}.{base64url(json.dumps(claims).encode())}"
    return f"{body}.{base64url(hmac.digest(SECRET, body.encode(), hashlib.sha256))}"


def refusal(token: str, now: float = NOW) -> Refused:
    with pytest.raises(Refused) as caught:
        TokenAuthority(SECRET).verify(token, now)
    return caught.value


@each("jwt", "issued")
def test_token_is_issued_byte_for_byte_as_the_go_system_does(vector: Vector) -> None:
    said = vector["fields"]
    token = TokenAuthority(SECRET).issue(said["uid"], said["now"])
    assert token.encode().hex() == vector["hex"]


@each("jwt", "issued")
def test_issued_token_tells_the_uid_that_the_go_system_reads(vector: Vector) -> None:
    said = vector["fields"]
    grant = TokenAuthority(SECRET).verify(said["token"], said["now"])
    assert (grant.uid, grant.user) == (said["go"]["uid"], said["go"]["nickname"])
    assert grant.expires_at_s == said["now"] + LIFETIME_S


@each("jwt", "verified")
def test_token_is_judged_as_the_vector_says(vector: Vector) -> None:
    said = vector["fields"]
    if said["text"] is not None:
        verdict = refusal(said["token"], said["now"])
        assert (verdict.code, verdict.text) == (Code.NOT_SIGNED_IN, said["text"])
        return
    grant = TokenAuthority(SECRET).verify(said["token"], said["now"])
    assert {
        "uid": grant.uid,
        "user": grant.user,
        "rooms": list(grant.rooms),
        "may_post": grant.may_post,
        "may_important": grant.may_important,
    } == said["grant"]


@each("jwt", "verified")
def test_verdict_differs_from_the_go_systems_only_where_the_vector_says_why(vector: Vector) -> None:
    said = vector["fields"]
    if "why_not_as_go" not in said:
        assert said["go"].get("error") == said["text"]


def test_time_counts_in_whole_seconds() -> None:
    authority = TokenAuthority(SECRET)
    token = authority.issue("42", NOW + 0.9)
    assert authority.verify(token, NOW).user == "42"
    assert authority.verify(token, NOW + LIFETIME_S + 0.999).user == "42"


@pytest.mark.parametrize("algorithm", ["none", "HS512", "RS256", "hs256"])
def test_algorithm_that_a_header_asks_for_is_never_used(algorithm: str) -> None:
    claims = {"uid": "42", "exp": NOW + 10}
    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    assert refusal(signed(claims, header=header)).text == BAD_SIGNATURE


def test_unsigned_token_is_refused() -> None:
    head = base64url(b'{"alg":"none"}')
    assert (
        refusal(f"{head}.{base64url(json.dumps({'uid': '1', 'exp': NOW}).encode())}.").text == BAD_SIGNATURE
    )


def test_token_of_another_key_is_refused() -> None:
    token = TokenAuthority(b"another secret of thirty-two byte").issue("42", NOW)
    assert refusal(token).text == BAD_SIGNATURE


@given(st.text(max_size=80))
def test_any_text_that_nobody_has_signed_is_refused(text: str) -> None:
    verdict = refusal(text)
    assert verdict.code is Code.NOT_SIGNED_IN
    assert verdict.text == (BAD_SIGNATURE if text.count(".") == 2 else BAD_SEGMENTS)


@given(st.data())
def test_any_change_of_a_token_is_noticed(data: st.DataObject) -> None:
    token = TokenAuthority(SECRET).issue("42", NOW)
    # The last letter of a signature has bits that say nothing.
    at = data.draw(st.integers(0, len(token) - 2))
    other = data.draw(st.sampled_from("Aa0-_.Z9").filter(lambda letter: letter != token[at]))
    assert refusal(token[:at] + other + token[at + 1 :]).code is Code.NOT_SIGNED_IN


@given(st.text(max_size=30))
def test_any_uid_comes_back_as_it_was(uid: str) -> None:
    authority = TokenAuthority(SECRET)
    assert authority.verify(authority.issue(uid, NOW), NOW).user == uid


def test_rooms_and_rights_are_granted() -> None:
    token = signed({"uid": "1", "exp": NOW, "rooms": ["a", "b-*"], "post": False, "important": False})
    grant = TokenAuthority(SECRET).verify(token, NOW)
    assert grant.rooms == ("a", "b-*")
    assert not grant.may_post
    assert not grant.may_important


def test_what_happened_is_counted_by_reason() -> None:
    authority = TokenAuthority(SECRET)
    token = authority.issue("1", NOW)
    authority.verify(token, NOW)
    for bad, now in (
        (f"{token}x.", NOW),
        ("", NOW),
        (token, NOW - 1),
        (token, NOW + 90_000),
        (signed({}), NOW),
    ):
        with pytest.raises(Refused):
            authority.verify(bad, now)
    refused = {"segments": 2, "issued_in_the_future": 1, "expired": 1, "claims": 1}
    assert authority.statistics() == TokenStatistics(issued=1, accepted=1, refused=refused)


def test_secret_is_in_no_repr() -> None:
    assert SECRET.decode() not in repr(TokenAuthority(SECRET))


def test_key_of_thirty_two_bytes_is_taken_silently() -> None:
    assert check_key(b"x" * MIN_KEY_BYTES, allow_short=False) is None


def test_short_key_is_taken_on_demand_with_a_warning() -> None:
    warning = check_key(SECRET, allow_short=True)
    assert warning is not None
    assert "31 bytes" in warning
    assert SECRET.decode() not in warning


@pytest.mark.parametrize(
    ("key", "allow_short", "problem"),
    [
        (SECRET, False, "31 bytes, fewer than 32"),
        (b"", True, "cannot be used"),
        (PUBLIC_KEY, True, "cannot be used"),
    ],
    ids=["short", "empty", "public"],
)
def test_key_that_must_not_be_used_is_refused(key: bytes, allow_short: bool, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_key(key, allow_short=allow_short)


@given(st.data())
def test_plain_tokens_are_judged_as_pyjwt_judges_them(data: st.DataObject) -> None:
    """The quick way may only accept what PyJWT accepts, with the same payload."""
    authority = TokenAuthority(SECRET)
    token = authority.issue(data.draw(st.text(max_size=20)), NOW)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(token) - 1))
        new = data.draw(st.sampled_from("AB-_=.+/ xyz\u00e9"))
        token = token[:at] + new + token[at + data.draw(st.integers(0, 1)) :]
    plain = authority._plain_payload(token)
    if plain is not None:
        assert plain == authority._jws.decode(token, SECRET, algorithms=["HS256"])


def test_issued_tokens_take_the_quick_way() -> None:
    authority = TokenAuthority(SECRET)
    assert authority._plain_payload(authority.issue("7", NOW)) is not None


def test_payload_that_is_signed_and_no_base64_is_left_to_pyjwt() -> None:
    authority = TokenAuthority(SECRET)
    header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    for payload in ("a", "YR", "Y Q", "YQ==", "\u00e9", "e30."):
        body = f"{header}.{payload}"
        signature = base64url(hmac.digest(SECRET, body.encode(), hashlib.sha256))
        assert authority._plain_payload(f"{body}.{signature}") is None
