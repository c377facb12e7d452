"""Golden bytes, shared by every client and service.

A vector is `{"name", "hex", "fields"}`: the bytes, and what they say.  Bytes within fields are hex too, under
a name that ends in `_hex`.  All but clients.json and closing.json were made by the Go system's own code
(what it does not know was added field by field with Go's protowire); jwt.json also holds its judgement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Vector: TypeAlias = dict[str, Any]


def load(name: str, section: str) -> list[Vector]:
    """Return one list of vectors of tests/vectors/`name`.json."""
    vectors: list[Vector] = load_file(name)[section]
    return vectors


def load_file(name: str) -> Vector:
    """Return all of tests/vectors/`name`.json."""
    content: Vector = json.loads((Path(__file__).parent / f"{name}.json").read_text())
    return content


def each(name: str, section: str) -> pytest.MarkDecorator:
    """Run a test once for each vector of a list, as its argument `vector`."""
    return pytest.mark.parametrize("vector", load(name, section), ids=lambda vector: vector["name"])
