"""Where the tokens of a load come from: signed here with the server's secret, or asked for at `/tk`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import httpx2

from schema.tokens import check_key

TIMEOUT_S: Final = 10.0


class NoToken(Exception):
    """There is none to be had; the text says why."""


def read_secret(secret_file: Path | None, variable: str | None) -> str:
    """Return the secret from a file or an environment variable; empty when neither is named.

    Raises:
        NoToken: it is not there, or cannot be one.
    """
    if secret_file is not None:
        secret = secret_file.read_text().strip()
    elif variable:
        secret = os.environ.get(variable, "")
    else:
        return ""
    try:
        check_key(secret.encode(), allow_short=True)  # the Go system's is short; the server decides
    except ValueError as exc:
        raise NoToken(f"{secret_file or variable}: {exc}") from None
    return secret


def fetch_tokens(url: str, count: int) -> tuple[str, ...]:
    """Ask the server of a WebSocket `url` for the tokens of users 1 to `count`.

    Raises:
        NoToken: it gives none.
    """
    parts = urlsplit(url)
    address = urlunsplit(("https" if parts.scheme == "wss" else "http", parts.netloc, "/tk", "", ""))
    tokens = []
    try:
        with httpx2.Client(timeout=TIMEOUT_S) as client:
            for uid in range(1, count + 1):
                answer = client.post(address, data={"uid": str(uid)}).json()
                if answer.get("code") != 1:
                    raise NoToken(f"{address}: {answer}")
                tokens.append(str(answer["data"]))
    except (httpx2.HTTPError, ValueError) as exc:
        raise NoToken(f"{address}: {exc}") from exc
    return tuple(tokens)
