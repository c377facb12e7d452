from __future__ import annotations

from typing import Any

import pytest

from runtime.failures import SetupError
from runtime.secret import Secret
from runtime.sections import (
    Admin,
    ClientTls,
    Etcd,
    Nsqd,
    PeerTls,
    Registration,
    ServerTls,
    TokenKey,
    wire_key,
)
from runtime.units import Address


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sign_in_timeout_s", "signInTimeout"),
        ("max_frame_bytes", "maxFrame"),
        ("heartbeat_timeout_v1_s", "heartbeatTimeoutV1"),
        ("size", "size"),
    ],
)
def test_key_is_camel_case_without_the_unit(name: str, key: str) -> None:
    assert wire_key(name) == key


@pytest.mark.parametrize(
    ("bind", "listen", "address"),
    [
        ("", "127.0.0.1:6000", ("127.0.0.1", 7000)),
        ("", "10.0.0.1:6001", ("127.0.0.1", 7001)),  # loopback, wherever gRPC is
        ("", "127.0.0.1:0", ("127.0.0.1", 0)),
        ("", "127.0.0.1:65000", ("127.0.0.1", 0)),
        ("[::1]:9", "127.0.0.1:6000", ("::1", 9)),
    ],
)
def test_admin_is_on_loopback_a_thousand_above_grpc(bind: str, listen: str, address: tuple[str, int]) -> None:
    assert Admin(bind=bind).address(listen) == Address(*address)


def test_advertised_address_is_the_bound_one_unless_said() -> None:
    bound = Registration(service_name="room_conn", listen_address="127.0.0.1:6000")
    assert bound.advertised() == "127.0.0.1:6000"
    behind_nat = Registration(
        service_name="x", listen_address="10.0.0.1:6000", advertise_address="chat.example:6000"
    )
    assert behind_nat.advertised() == "chat.example:6000"


@pytest.mark.parametrize(
    ("listen", "advertise", "served", "told"),
    [
        ("conn-1.example:6000", "", "10.0.0.1:6000", "conn-1.example:6000"),
        ("conn-1.example:0", "", "10.0.0.1:34567", "conn-1.example:34567"),
        ("0.0.0.0:0", "", "0.0.0.0:34567", "0.0.0.0:34567"),
        ("[::]:0", "", "[::]:34567", "[::]:34567"),
        ("[::1]:6000", "", "[::1]:6000", "[::1]:6000"),
        ("10.0.0.1:0", "conn-1.example:0", "10.0.0.1:34567", "conn-1.example:34567"),
        ("10.0.0.1:0", "conn-1.example:16000", "10.0.0.1:34567", "conn-1.example:16000"),
    ],
)
def test_advertised_host_is_the_one_of_the_settings(
    listen: str, advertise: str, served: str, told: str
) -> None:
    """Resolved, it was no name that a certificate holds."""
    registration = Registration(service_name="x", listen_address=listen, advertise_address=advertise)
    assert registration.advertised(served) == told


def test_key_is_given_as_it_is() -> None:
    assert TokenKey(secret=Secret(b"k")).require_key() == b"k"


def test_missing_key_is_refused_with_where_to_put_it() -> None:
    with pytest.raises(SetupError, match="ROOMCAST_TOKEN_SECRET"):
        TokenKey().require_key()


def test_etcd_is_off_unless_its_addresses_are_given() -> None:
    assert Etcd().addrs == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"user": "roomcast"}, "user: needs the secret etcd_password"),
        ({"password": Secret(b"x")}, "user: needs the secret etcd_password"),
        ({"cert_file": "a.pem"}, "certFile and keyFile: one needs the other"),
        ({"key_file": "a.pem"}, "certFile and keyFile: one needs the other"),
    ],
)
def test_half_of_what_etcd_needs_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Etcd(**given)


PAIR: dict[str, Any] = {"cert_file": "a.pem", "key_file": "b.pem"}


@pytest.mark.parametrize("section", [ClientTls, PeerTls, ServerTls])
def test_services_speak_cleartext_unless_files_are_given(section: type[ClientTls | ServerTls]) -> None:
    assert not section().is_on
    assert section(**PAIR).is_on


@pytest.mark.parametrize(
    ("section", "given", "message"),
    [
        (ServerTls, {"cert_file": "a.pem"}, "certFile and keyFile: one needs the other"),
        (ServerTls, {"ca_file": "c.pem", "client_auth": True}, "caFile: needs certFile and keyFile"),
        (ServerTls, {**PAIR, "client_auth": True}, "clientAuth: needs caFile"),
        (ServerTls, {**PAIR, "ca_file": "c.pem"}, "caFile: checks clients, which clientAuth = true asks for"),
        (ClientTls, {"key_file": "b.pem"}, "certFile and keyFile: one needs the other"),
        (ClientTls, {"server_name": "conn.example"}, "serverName: needs caFile"),
        (PeerTls, {"key_file": "b.pem"}, "certFile and keyFile: one needs the other"),
        (PeerTls, {"ca_file": "c.pem"}, "caFile: needs certFile and keyFile"),
        (PeerTls, {**PAIR, "client_auth": True}, "clientAuth: needs caFile"),
        (PeerTls, {"client_auth": True}, "clientAuth: needs caFile"),
        (PeerTls, {"server_name": "logic.example"}, "serverName: needs caFile"),
        (Nsqd, {"ca_file": "c.pem"}, "tls: must be true where caFile"),
        (Nsqd, PAIR, "tls: must be true where caFile"),
        (Nsqd, {"server_name": "nsqd.example"}, "tls: must be true where caFile"),
        (Nsqd, {"tls": True, "cert_file": "a.pem"}, "certFile and keyFile: one needs the other"),
    ],
)
def test_tls_that_would_protect_less_than_it_looks_like_is_refused(
    section: type[ClientTls | ServerTls | Nsqd], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        section(**given)


def test_tls_of_one_side_needs_no_more_than_that_side() -> None:
    assert ClientTls(ca_file="c.pem", server_name="conn.example").is_on
    assert PeerTls(**PAIR).is_on
    assert PeerTls(**PAIR, ca_file="c.pem", server_name="logic.example").is_on
    assert Nsqd(tls=True).tls
