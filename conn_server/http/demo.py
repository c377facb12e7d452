"""The demo page and its files, read once: what is not in the folder at start cannot be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

INDEX: Final = "index.html"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS: Final = {
    # 'self' covers ws: and wss: of the same origin (CSP level 3, section 6.7.2.8)
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file as it is served."""

    content_type: str
    body: bytes


def read_pages(folder: Path | None) -> dict[str, Page]:
    """Return path -> page for the files of known types in `folder` and below; None is none.

    Raises:
        OSError: a file cannot be read, or there is no index.html.
    """
    if folder is None:
        return {}
    pages = {
        f"/{path.relative_to(folder).as_posix()}": Page(TYPES[path.suffix], path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES and path.is_file()
    }
    if f"/{INDEX}" not in pages:
        raise FileNotFoundError(f"{folder / INDEX}: no such file")
    pages["/"] = pages[f"/{INDEX}"]
    return pages
