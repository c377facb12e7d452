"""What docs/architecture.md names exists, and its map leaves no module of a service out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py):\s([\w.]+)`", TEXT)))
HOUSE = TEXT.partition("## 2. The house\n\n```\n")[2].partition("```")[0]
# In every service, and said in one sentence below the map.
EVERYWHERE = {"__init__.py", "__main__.py", "app.py", "settings.py"}


def defined(module: Path) -> set[str]:
    """Return the names that a module defines, those of its classes as `Class.name`."""
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, definitions):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{item.name}" for item in inner if isinstance(item, definitions)}
    return names


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_named_function_exists(path: str, name: str) -> None:
    assert name in defined(ROOT / path)


def test_ways_are_told_through_functions() -> None:
    assert len(NAMED) > 40


def test_every_module_of_a_service_is_in_the_map() -> None:
    for folder in ("schema", "conn_server", "logic_server", "job_worker"):
        section = re.split(r"\n(?=\w)", HOUSE.partition(f"{folder}/")[2])[0]
        named = set(re.findall(r"\w+\.py|\w+(?=/)", section))
        there = {path.name for path in (ROOT / folder).glob("*.py")} - EVERYWHERE
        there |= {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
        assert there - named == set(), f"not on the map of {folder}/ in docs/architecture.md"
        assert {name for name in named if name.endswith(".py")} - there == set(), f"no longer in {folder}/"
