from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from runtime.secret import Secret
from runtime.sources import (
    Given,
    SettingsError,
    folded_key,
    from_environment,
    from_file,
    line_numbers,
    read_secret,
)


def test_lines_are_found_in_tables_and_dotted_and_quoted_keys() -> None:
    text = "a.b = 1\n\n[room]  # x\n  batch = 1\n'signal' = 2\n# d = 1\n"
    assert line_numbers(text) == {("a", "b"): 1, ("room", "batch"): 4, ("room", "signal"): 5}


@given(st.text())
def test_lines_are_looked_for_in_any_text(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in line_numbers(text).values())


def test_file_gives_its_keys_with_their_lines_also_as_windows_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "conn.toml"
    path.write_bytes(b"\xef\xbb\xbf[room]\r\nbatch = 5\r\n[srv]\r\nname = 'x'\r\n")
    assert list(from_file(path)) == [
        Given(("room", "batch"), 5, f"{path}:2"),
        Given(("srv", "name"), "x", f"{path}:4"),
    ]


def test_environment_gives_nested_keys_and_leaves_other_variables_alone() -> None:
    environ = {"ROOMCAST_CONN__WEBSOCKET__BIND": ":1", "ROOMCAST_TOKEN_SECRET": "x", "HOME__X": "y"}
    assert list(from_environment(environ)) == [
        Given(("CONN", "WEBSOCKET", "BIND"), ":1", "environment ROOMCAST_CONN__WEBSOCKET__BIND")
    ]


def test_keys_are_compared_without_case_and_underscores() -> None:
    assert folded_key(["RULES", "post_anywhere"]) == folded_key(("rules", "postAnywhere"))


@pytest.mark.parametrize("content", [b"private", b"private\n", b"private\r\n"])
def test_line_end_of_a_credential_is_not_part_of_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token_secret").write_bytes(content)
    assert read_secret("token_secret", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == (
        Secret(b"private"),
        f"file {tmp_path / 'token_secret'}",
    )


def test_secret_that_is_nowhere_is_none_and_one_that_cannot_be_read_an_error(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_secret("token_secret", {}) is None
    assert read_secret("token_secret", environ) is None
    (tmp_path / "token_secret").mkdir()
    with pytest.raises(SettingsError, match="Is a directory"):
        read_secret("token_secret", environ)
