"""Throw-away certificates, as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it has signed for a server ("localhost") and a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def settings(self) -> dict[str, Any]:
        """Return the files in `[tls]` and `[nsq]` of one who has the server's certificate."""
        return {
            "cert_file": str(self.server),
            "key_file": str(self.server_key),
            "ca_file": str(self.ca),
        }

    def nsqd(self) -> Path:
        """Return key and chain of the server in one file, which it is made of."""
        both = self.server.with_name("both.pem")
        both.write_bytes(self.server_key.read_bytes() + self.server.read_bytes())
        return both


def make_certificates(folder: Path, *, server: tuple[str, ...] = ("localhost", "127.0.0.1")) -> Certificates:
    authority = trustme.CA()
    made = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "skey", "client", "ckey")))
    authority.cert_pem.write_to_path(str(made.ca))
    for names, chain, key in (
        (server, made.server, made.server_key),
        (("conn.example",), made.client, made.client_key),
    ):
        issued = authority.issue_cert(*names)
        issued.cert_chain_pems[0].write_to_path(str(chain))
        issued.private_key_pem.write_to_path(str(key))
    return made
