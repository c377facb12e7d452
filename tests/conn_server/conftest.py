from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

import pytest

from conn_server.settings import WebSocket
from conn_server.sockets import tls_context
from tests.runtime.rpc.certificates import Certificates, make_certificates


@dataclass(frozen=True)
class Tls:
    """Certificates, the server's context as the port makes it, and a client's."""

    certificates: Certificates
    server: ssl.SSLContext
    client: ssl.SSLContext

    @property
    def both(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return self.server, self.client

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that make a port use them."""
        return {"tls_cert": str(self.certificates.server), "tls_key": str(self.certificates.server_key)}


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    made = make_certificates(tmp_path_factory.mktemp("certificates"))
    server = tls_context(WebSocket(tls_cert=str(made.server), tls_key=str(made.server_key)))
    assert server is not None
    return Tls(made, server, ssl.create_default_context(cafile=made.ca))
