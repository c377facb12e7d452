"""The check of generated code sees every way in which it can be out of date."""

from __future__ import annotations

from pathlib import Path

import pytest

from schema.proto import generate


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a project with one generated file; return where the same was generated anew."""
    monkeypatch.chdir(tmp_path)
    anew = tmp_path / "anew"
    for root in (tmp_path, anew):
        (root / generate.FOLDER).mkdir(parents=True)
        (root / generate.FOLDER / "conn_pb2.py").write_bytes(b"same")
    return anew


def test_same_code_is_up_to_date(fresh: Path) -> None:
    Path(generate.FOLDER, "generate.py").write_bytes(b"written by hand")
    assert list(generate.differing(fresh)) == []


@pytest.mark.parametrize(
    ("where", "name", "content"),
    [
        pytest.param("anew", "conn_pb2.py", b"grown", id="changed"),
        pytest.param("anew", "job_pb2.pyi", b"new", id="missing"),
        pytest.param(".", "gone_grpc.py", b"old", id="left over"),
    ],
)
@pytest.mark.usefixtures("fresh")
def test_difference_is_named(where: str, name: str, content: bytes) -> None:
    Path(where, generate.FOLDER, name).write_bytes(content)
    assert list(generate.differing(Path("anew"))) == [generate.FOLDER / name]
