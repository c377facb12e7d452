"""Where the tokens of a load come from: signed here with the server's secret, or asked for at `/tk`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import httpx2
from msgspec import DecodeError
from msgspec.json import Decoder

from bench.plan import Target
from bench.trust import tls_context
from schema.tokens import check_key

TIMEOUT_S: Final = 10.0

read_answer = Decoder(dict[str, object]).decode


class NoToken(Exception):
    """There is none to be had; the text says why."""


def read_secret(secret_file: Path | None, variable: str | None) -> str:
    """Return the secret from a file or an environment variable; empty when neither is named.

    Raises:
        NoToken: it is not there, or cannot be one.
    """
    if secret_file is not None:
        try:
            secret = secret_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as exc:
            raise NoToken(f"{secret_file}: {exc}") from None
    elif variable:
        secret = os.environ.get(variable, "")
    else:
        return ""
    try:
        check_key(secret.encode(), allow_short=True)  # the Go system's is short; the server decides
    except ValueError as exc:
        raise NoToken(f"{secret_file or variable}: {exc}") from None
    return secret


def fetch_tokens(target: Target, count: int) -> tuple[str, ...]:
    """Ask the server under load for the tokens of users 1 to `count`, over TLS where it speaks that.

    Raises:
        NoToken: it gives none.
    """
    parts = urlsplit(target.url)
    address = urlunsplit(("https" if parts.scheme == "wss" else "http", parts.netloc, "/tk", "", ""))
    try:
        context = tls_context(target.ca_file, is_checked=not target.insecure)
        with httpx2.Client(timeout=TIMEOUT_S, verify=context) as client:
            return tuple(
                token_of(client.post(address, data={"uid": str(uid)})) for uid in range(1, count + 1)
            )
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as exc:
        raise NoToken(f"{address}: {exc}") from exc
    except NoToken as exc:
        raise NoToken(f"{address}: {exc}") from None


def token_of(answer: httpx2.Response) -> str:
    """Return the token in an answer of `/tk`.

    Raises:
        NoToken: there is none in it.
    """
    try:
        content = read_answer(answer.content)
    except DecodeError:
        content = {}
    if content.get("code") != 1 or "data" not in content:
        raise NoToken(f"HTTP {answer.status_code} {content.get('msg', 'without a token')}")
    return str(content["data"])
