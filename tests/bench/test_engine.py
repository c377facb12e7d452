from __future__ import annotations

import socket
import ssl
import time

import pytest

from bench.engine import Engine, endpoint_of, upgrade_to
from bench.limits import PORTS_PER_ADDRESS
from bench.plan import Load, Plan, Target
from schema.tokens import TokenAuthority

pytestmark = pytest.mark.usefixtures("no_leaks")
SECRET = "s" * 32
NOBODY = "ws://127.0.0.1:9/room"


def engine(target: Target, connections: int = 1) -> Engine:
    return Engine(Plan(target=target, load=Load(workload="idle", connections=connections), run=0xABC))


def test_users_get_tokens_that_the_server_accepts_each_its_own() -> None:
    made = engine(Target(url=NOBODY, secret=SECRET))
    authority = TokenAuthority(SECRET.encode())
    assert [authority.verify(made.token(number), time.time()).uid for number in (0, 41)] == [1, 42]
    made.close()


def test_tokens_that_were_fetched_are_used_in_turn() -> None:
    made = engine(Target(url=NOBODY, tokens=("a", "b")))
    assert [made.token(number) for number in range(3)] == ["a", "b", "a"]
    made.close()


def test_many_users_come_from_several_addresses() -> None:
    made = engine(Target(url=NOBODY), connections=PORTS_PER_ADDRESS + 1)
    assert [made.source(number) for number in range(3)] == ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    made.close()


def test_rooms_of_two_runs_are_not_the_same() -> None:
    made = engine(Target(url=NOBODY))
    assert made.room(3) == "bench-abc-3"
    made.close()


def test_address_is_resolved_with_the_port_of_its_scheme() -> None:
    plain = endpoint_of(Target(url="ws://127.0.0.1/room"))
    assert (plain.host, plain.port, plain.family, plain.tls) == ("127.0.0.1", 80, socket.AF_INET, None)
    secure = endpoint_of(Target(url="wss://127.0.0.1/room", insecure=True))
    assert (secure.port, secure.name) == (443, "127.0.0.1")
    assert secure.tls is not None
    assert secure.tls.verify_mode == ssl.CERT_NONE
    with pytest.raises(ValueError, match="not a ws:// or wss:// address"):
        endpoint_of(Target(url="http://127.0.0.1/"))


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("ws://h:1/room?a=b", b"GET /room?a=b HTTP/1.1\r\n", b"Host: h:1\r\n"),
        ("ws://me:pw@h", b"GET / HTTP/1.1\r\n", b"Host: h\r\n"),
    ],
)
def test_upgrade_asks_for_the_path_of_the_address(url: str, line: bytes, host: bytes) -> None:
    request = upgrade_to(url, bytes(16)).request
    assert request.startswith(line)
    assert host in request
