from __future__ import annotations

import copy
import json
import traceback

import msgspec
import pytest

from runtime.secret import Secret


def pickled(secret: Secret) -> object:
    """Return what pickle asks for first."""
    return secret.__reduce_ex__(4)


SECRET = Secret(b"very private indeed")


@pytest.mark.parametrize(
    "shown",
    [str(SECRET), repr(SECRET), f"{SECRET}", f"{SECRET:>30}", f"{[SECRET]}", "{}".format(SECRET)],  # noqa: UP032
)
def test_secret_hides_in_every_text(shown: str) -> None:
    assert "private" not in shown
    assert "***" in shown


def test_secret_says_whether_it_is_text() -> None:
    assert Secret("schlüssel".encode()).is_text
    assert not Secret(b"\xff").is_text


def test_secret_hides_in_a_structure_around_it() -> None:
    class Holder(msgspec.Struct):
        secret: Secret

    assert "private" not in repr(Holder(SECRET))


@pytest.mark.parametrize("leak", [pickled, copy.copy, copy.deepcopy, json.dumps, msgspec.json.encode, vars])
def test_secret_is_not_serialized(leak: object) -> None:
    with pytest.raises(TypeError) as caught:
        leak(SECRET)  # type: ignore[operator]
    assert "private" not in "".join(traceback.format_exception(caught.value))


def test_secret_is_revealed_on_request_and_compares_by_value() -> None:
    assert SECRET.reveal() == b"very private indeed"
    assert len(SECRET) == 19
    assert Secret(b"a") == Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != b"a"
    assert hash(Secret(b"a")) == hash(Secret(b"b"))
    assert Secret(b"")
