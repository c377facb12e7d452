"""The browser that the JavaScript tests run in."""

from tests.chromium import chromium, chromium_path

__all__ = ["chromium", "chromium_path"]
