from __future__ import annotations

import resource
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from conn_server.settings import WebSocket
from conn_server.sockets import open_sockets, raise_fd_limit, reserve_port, tls_context
from runtime.failures import SetupError
from tests.conn_server.conftest import Tls

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize(
    ("bind", "addresses"),
    [
        ("127.0.0.1:0", ["127.0.0.1"]),
        ("localhost:0", ["localhost"]),
        (":0", ["127.0.0.1", "::1"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]),
    ],
)
def test_listens_where_the_settings_say(bind: str, addresses: list[str]) -> None:
    (listener,) = open_sockets(WebSocket(bind=bind))
    assert listener.gettimeout() == 0
    with listener:
        for address in addresses:
            socket.create_connection((address, listener.getsockname()[1])).close()


def test_accepted_sockets_send_at_once() -> None:
    (listener,) = open_sockets(WebSocket(bind="127.0.0.1:0"))
    with listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_address_in_use_is_one_line_for_the_operator() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SetupError, match=f"client port {bind}: Address already in use"):
            open_sockets(WebSocket(bind=bind))


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_shared_port_gives_connections_to_those_alone_that_listen(host: str) -> None:
    with reserve_port(WebSocket(bind=f"{host}:0")) as reserved:
        port = reserved.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        sharing = WebSocket(bind=f"{host}:{port}", reuse_port=True)
        (one,), (other,) = open_sockets(sharing), open_sockets(sharing)
        with one, other:
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
            taken = [0, 0]
            for index, listener in enumerate((one, other)):
                with suppress(BlockingIOError):
                    while True:
                        listener.accept()[0].close()
                        taken[index] += 1
            for client in clients:
                client.close()
        assert sum(taken) == 64
        assert min(taken) > 8


def test_port_of_somebody_who_does_not_share_cannot_be_reserved() -> None:
    (taken,) = open_sockets(WebSocket(bind="127.0.0.1:0"))
    with taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SetupError, match=f"client port {bind}: Address already in use"):
            reserve_port(WebSocket(bind=bind))


def test_no_certificate_is_clear_text() -> None:
    assert tls_context(WebSocket()) is None


def test_context_takes_no_old_tls_no_renegotiation_and_keeps_no_tickets(tls: Tls) -> None:
    assert tls.server.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.server.options & ssl.OP_NO_RENEGOTIATION
    assert tls.server.num_tickets == 0


def test_missing_certificate_is_one_line_for_the_operator(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.pem")
    with pytest.raises(SetupError, match=r"tlsCert .*no\.pem.*: No such file or directory"):
        tls_context(WebSocket(tls_cert=missing, tls_key=missing))


def test_key_of_another_certificate_is_one_line_for_the_operator(tls: Tls) -> None:
    files = tls.certificates
    with pytest.raises(SetupError, match="KEY_VALUES_MISMATCH"):
        tls_context(WebSocket(tls_cert=str(files.server), tls_key=str(files.client_key)))


def test_file_that_is_no_certificate_is_one_line_for_the_operator(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    with pytest.raises(SetupError, match=r"bad\.pem"):
        tls_context(WebSocket(tls_cert=str(bad), tls_key=str(bad)))


def test_fd_limit_is_raised_as_far_as_it_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1000), hard))
        assert raise_fd_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
