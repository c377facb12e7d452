"""The golden bytes of the client's end, shared by the Python and the JavaScript client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors" / "clients.json").read_text()
)
