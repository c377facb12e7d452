"""The browser that the demo page is tried in."""

from tests.chromium import chromium, chromium_path

__all__ = ["chromium", "chromium_path"]
