"""From the accepted socket to the upgrade, to HTTP, or to a refusal; every stage with its deadline."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, strategies as st

from conn_server.admission import Full
from conn_server.opening import OpeningStatistics, answer_upgrade
from conn_server.rejection import Rejection
from tests.conn_server.conftest import Tls
from tests.conn_server.driven import Door, open_door
from tests.conn_server.raw import ACCEPTED, BINARY, UPGRADE, frame

pytestmark = pytest.mark.usefixtures("no_leaks")

NOW = 1000.0
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture(params=["plain", "tls"])
async def door(request: pytest.FixtureRequest, tls: Tls) -> AsyncIterator[Door]:
    with open_door(tls=tls.both if request.param == "tls" else None) as door:
        door.poller.now = NOW
        yield door


def with_header(line: bytes) -> bytes:
    return UPGRADE.replace(b"\r\n\r\n", b"\r\n%s\r\n\r\n" % line)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


# -- the upgrade


@pytest.mark.parametrize("cut", ["whole", "bytewise", "tail"])
async def test_upgrade_is_answered_however_it_comes(door: Door, cut: str) -> None:
    peer = door.knock(place="here")
    tail = frame(b"first") + frame(b"second")
    if cut == "whole":
        peer.say(UPGRADE)
    elif cut == "bytewise":
        peer.say(*(UPGRADE[at : at + 1] for at in range(len(UPGRADE))))
    else:
        peer.say(UPGRADE + tail[:-3])
    head, _, rest = peer.hear().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert ACCEPTED in head
    assert b"extensions" not in head.lower()
    if cut == "tail":
        assert rest == b"\x82\x05first"
        peer.say(tail[-3:])
        assert peer.frames() == [(BINARY, b"second")]
    assert door.doorway.statistics() == OpeningStatistics(1, 0, {})
    assert door.failures == []


async def test_frames_that_came_with_the_head_in_one_tls_record_are_all_read(door: Door) -> None:
    """What OpenSSL has decrypted already raises no event: beyond the first 4 KiB it waited for the next."""
    peer = door.knock()
    frames = [b"%d" % number * 100 for number in range(80)]
    peer.say(UPGRADE + b"".join(map(frame, frames)))
    assert door.receivers[0].received == frames


async def test_long_head_in_one_tls_record_is_read_to_its_end(door: Door) -> None:
    peer = door.knock()
    peer.say(with_header(b"X-Long: " + b"x" * 6000))
    assert status(peer.hear()) == 101


async def test_compression_and_subprotocols_are_not_offered_back(door: Door) -> None:
    peer = door.knock()
    peer.say(
        with_header(
            b"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat, superchat"
        )
    )
    answer = peer.hear()
    assert status(answer) == 101
    assert b"sec-websocket-extensions" not in answer.lower()
    assert b"sec-websocket-protocol" not in answer.lower()


@pytest.mark.parametrize("target", [b"/room?x=1", b"/room?", b"/room"])
async def test_path_is_compared_before_the_query(door: Door, target: bytes) -> None:
    peer = door.knock()
    peer.say(UPGRADE.replace(b"/room", target))
    assert status(peer.hear()) == 101


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(
    "target", [b"http://h/room", b"HTTPS://chat.example:8081/room?x=1", b"http://[::1]/room"]
)
async def test_absolute_target_is_taken_by_its_path(door: Door, target: bytes, is_whole: bool) -> None:
    peer = door.knock()
    head = UPGRADE.replace(b"/room", target)
    peer.say(*([head] if is_whole else (head[at : at + 1] for at in range(len(head)))))
    assert status(peer.hear()) == 101
    assert door.handed == []


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (UPGRADE.replace(KEY, b""), "Sec-WebSocket-Key has to be 16 bytes in base64"),
        (UPGRADE.replace(KEY, b"x"), "Sec-WebSocket-Key has to be 16 bytes in base64"),
        (UPGRADE.replace(KEY, b"!" * 24), "Sec-WebSocket-Key has to be 16 bytes in base64"),
        (UPGRADE.replace(KEY, b"MTIzNDU2Nzg5MDEyMzQ1"), "Sec-WebSocket-Key has to be 16 bytes in base64"),
        (with_header(b"sec-websocket-key: " + b"A" * 22 + b"=="), "there has to be one Sec-WebSocket-Key"),
        (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"), "it has to be HTTP/1.1"),
        (UPGRADE.replace(b"HTTP/1.1", b"HTTP/2.0"), "it has to be HTTP/1.1"),
        (with_header(b"Content-Length: 5"), "it must not have a body"),
        (with_header(b"Transfer-Encoding: chunked"), "it must not have a body"),
        (
            with_header(b"Sec-WebSocket-Protocol: \xff"),
            "a Host, Connection or Sec-WebSocket header cannot be decoded",
        ),
        (
            with_header(b"Sec-WebSocket-Extensions: \xff"),
            "a Host, Connection or Sec-WebSocket header cannot be decoded",
        ),
    ],
)
def test_upgrade_that_breaks_rfc_6455_is_told_what_is_wrong(head: bytes, why: str) -> None:
    assert answer_upgrade(head, ()) == Rejection(400, "bad_upgrade", f"not a WebSocket upgrade: {why}")


@pytest.mark.parametrize(
    "head",
    [
        with_header(b"Content-Length: 0"),
        with_header(b"X-Empty:"),
        UPGRADE.replace(b"\r\n", b"\n"),
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.2"),
    ],
)
def test_upgrade_that_is_unusual_but_right_is_accepted(head: bytes) -> None:
    assert ACCEPTED in bytes(answer_upgrade(head, ()))  # type: ignore[arg-type]  # a rejection fails here


@pytest.mark.parametrize(
    ("head", "code"),
    [
        pytest.param(b"GET /room HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="plain GET"),
        pytest.param(UPGRADE.replace(b"Version: 13", b"Version: 8"), 426, id="another version"),
        pytest.param(UPGRADE.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 400, id="no version"),
        pytest.param(
            UPGRADE.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), 400, id="no key"
        ),
        pytest.param(UPGRADE.replace(b"Host: localhost\r\n", b""), 400, id="no host"),
        pytest.param(UPGRADE.replace(b"localhost", b"\xff\xfe..xn--"), 400, id="undecodable host"),
        pytest.param(UPGRADE.replace(b"Host:", b"Ho st:"), 400, id="bad header name"),
        pytest.param(UPGRADE.replace(b"Connection: Upgrade", b"Connection: close"), 400, id="no upgrade"),
        pytest.param(UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: h2c"), 400, id="another protocol"),
        pytest.param(UPGRADE.replace(b"HTTP/1.1", b"HTTP/7"), 400, id="no such HTTP"),
        pytest.param(UPGRADE.replace(b"HTTP/1.1", b""), 400, id="no HTTP at all"),
        pytest.param(b"GET /room \x00\r\n\r\n", 400, id="garbage"),
        pytest.param(with_header(b"Sec-WebSocket-Extensions: \xff"), 400, id="undecodable extensions"),
        pytest.param(with_header(b"Sec-WebSocket-Protocol: \xff"), 400, id="undecodable protocols"),
        pytest.param(with_header(b"Host: again"), 400, id="two hosts"),
        pytest.param(b"GET /room HTTP/1.1\r\nX: " + b"a" * 9000, 431, id="head too large, without end"),
        pytest.param(with_header(b"X: " + b"a" * 9000), 431, id="head too large"),
    ],
)
async def test_bad_upgrade_is_answered_and_closed(door: Door, head: bytes, code: int) -> None:
    peer = door.knock(place="here")
    peer.say(head)
    answer = peer.hear()
    assert status(answer) == code
    assert answer.partition(b"\r\n\r\n")[2].startswith(b'{"code":0,"msg":"')
    assert peer.is_at_end
    assert sum(door.doorway.statistics().rejected.values()) == 1
    peer.sock.close()
    door.poller.turn()
    assert door.failures == ["here"]
    assert door.poller.statistics().sockets == 0


async def test_426_names_the_version_that_is_spoken(door: Door) -> None:
    peer = door.knock()
    peer.say(UPGRADE.replace(b"Version: 13", b"Version: 8"))
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in peer.hear()


@given(st.binary(max_size=200), st.integers(0, len(UPGRADE)), st.integers(0, 40))
def test_any_head_is_answered_and_never_raises(junk: bytes, at: int, cut: int) -> None:
    head = UPGRADE[:at] + junk + UPGRADE[at + cut :]
    answer = answer_upgrade(head, ())
    if isinstance(answer, Rejection):
        assert answer.status in (400, 426)
        assert answer.encode("*", b"").startswith(b"HTTP/1.1 4")
    else:
        assert answer.startswith(b"HTTP/1.1 101 ")


# -- origins


@pytest.mark.parametrize(
    ("origin", "code"),
    [(b"https://chat.example", 101), (b"https://evil.example", 403), (b"null", 403), (None, 101)],
)
async def test_only_listed_origins_and_clients_without_one_come_in(origin: bytes | None, code: int) -> None:
    with open_door(origins=(b"https://chat.example",)) as door:
        peer = door.knock()
        peer.say(UPGRADE if origin is None else with_header(b"Origin: " + origin))
        assert status(peer.hear()) == code
        assert door.doorway.rejected["origin"] == (code == 403)
        # The same through wsproto, which takes what is not plain.
        peer = door.knock()
        peer.say(with_header(b"X-Empty:" + (b"" if origin is None else b"\r\nOrigin: " + origin)))
        assert status(peer.hear()) == code


async def test_every_origin_is_allowed_without_a_list(door: Door) -> None:
    peer = door.knock()
    peer.say(with_header(b"Origin: https://any.example"))
    assert status(peer.hear()) == 101


# -- HTTP


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /msg HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n",
        b"GET /roomy HTTP/1.1\r\n",
        b"GET /room/ HTTP/1.1\r\n",
        b"HEAD /room HTTP/1.1\r\n",
        b"get /room HTTP/1.1\r\n",
        b"GET http://h/roomy HTTP/1.1\r\n",
        b"GET http://h HTTP/1.1\r\n",
        b"GET http:///room HTTP/1.1\r\n",
        b"GET ftp://h/room HTTP/1.1\r\n",
        b"GET HTTP/1.1\r\n",
        b"\r\nGET /room HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
async def test_anything_else_is_handed_over_with_every_byte(
    door: Door, request_: bytes, is_whole: bool
) -> None:
    peer = door.knock(place="here")
    if is_whole:
        peer.say(request_)
    else:
        peer.say(*(request_[at : at + 1] for at in range(len(request_))))
    ((sock, received, place),) = door.handed
    assert request_.startswith(received)
    assert place == "here"
    if is_whole:
        assert received == request_
    elif door.tls is None:
        assert received + sock.recv(1000) == request_
    assert door.poller.statistics().sockets == 0
    assert door.doorway.statistics() == OpeningStatistics(0, 1, {})


# -- refusals


async def test_who_has_no_place_is_told_after_the_head(door: Door) -> None:
    full = Rejection.of_full(Full(503, "connections", "this node is full, try again later"))
    for request_ in (UPGRADE, b"POST /msg HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"):
        peer = door.knock(place=None, refusal=full)
        peer.say(request_[:10])
        assert peer.hear() == b""
        peer.say(request_[10:])
        answer = peer.hear()
        assert status(answer) == 503
        assert b"\r\nRetry-After: 5\r\n" in answer
        assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in answer
        assert answer.endswith(b'{"code":0,"msg":"this node is full, try again later"}')
        assert peer.is_at_end
        peer.sock.close()
        door.poller.turn()
    assert door.failures == [None, None]
    assert door.doorway.statistics().rejected == {"connections": 2}


async def test_preflight_of_who_has_no_place_is_answered_so_that_the_page_hears_of_the_refusal(
    door: Door,
) -> None:
    peer = door.knock(place=None, refusal=Rejection.of_full(Full(503, "connections", "full")))
    peer.say(b"OPTIONS /msg HTTP/1.1\r\nHost: x\r\nOrigin: https://page\r\n\r\n")
    assert status(peer.hear()) == 200
    assert door.doorway.statistics().rejected == {"connections": 1}


async def test_everybody_is_refused_while_draining(door: Door) -> None:
    early = door.knock()
    early.say(UPGRADE[:20])
    door.doorway.refusal = Rejection(503, "draining", "this node is going away")
    early.say(UPGRADE[20:])
    assert status(early.hear()) == 503
    late = door.knock()
    late.say(b"GET / HTTP/1.1\r\n\r\n")
    assert status(late.hear()) == 503
    assert door.handed == []


async def test_rejected_peer_may_go_on_sending_without_a_reset(door: Door) -> None:
    peer = door.knock()
    peer.say(b"GET /room HTTP/1.1\r\nHost: x\r\n\r\n")
    if door.tls is None:
        peer.say(b"more" * 5000)
    assert status(peer.hear()) == 400


# -- deadlines, each provoked by a peer that stalls


@pytest.mark.parametrize("said", [b"", b"G", UPGRADE[:-1]])
async def test_head_that_does_not_come_to_its_end_is_given_up(door: Door, said: bytes) -> None:
    peer = door.knock(place="here")
    peer.say(said)
    door.poller.sweep_once(NOW + 5.0)
    assert door.failures == []
    door.poller.sweep_once(NOW + 5.1)
    assert door.failures == ["here"]
    assert door.doorway.statistics().rejected == {"head_timeout": 1}
    assert peer.hear() == b""
    assert peer.is_at_end


async def test_dribbling_puts_nothing_off(door: Door) -> None:
    peer = door.knock()
    for second in range(6):
        door.poller.now = NOW + second
        peer.say(UPGRADE[second : second + 1])
        door.poller.sweep_once(NOW + second)
    door.poller.sweep_once(NOW + 5.1)
    assert door.failures == ["here"]


async def test_handshake_that_does_not_come_to_its_end_is_given_up(tls: Tls) -> None:
    with open_door(tls=tls.both) as door:
        door.poller.now = NOW
        theirs = door.arrive()
        door.poller.turn()
        door.poller.sweep_once(NOW + 5.1)
        assert door.doorway.statistics().rejected == {"tls_timeout": 1}
        assert door.poller.statistics().sockets == 0
        theirs.close()


async def test_plain_text_on_a_tls_port_is_closed(tls: Tls) -> None:
    with open_door(tls=tls.both) as door:
        theirs = door.arrive()
        theirs.send(UPGRADE)
        door.poller.turn()
        assert door.doorway.statistics().rejected == {"tls": 1}
        assert door.failures == ["here"]
        theirs.close()


async def test_handshake_may_come_byte_by_byte(tls: Tls) -> None:
    with open_door(tls=tls.both) as door:
        theirs = door.arrive()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = tls.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
        is_shaken = False
        while not is_shaken:
            try:
                client.do_handshake()
                is_shaken = True
            except ssl.SSLWantReadError:
                pass
            for byte in outgoing.read():
                theirs.send(bytes((byte,)))
                door.poller.turn()
            if not is_shaken:
                incoming.write(theirs.recv(1 << 16))
        client.write(UPGRADE)
        for byte in outgoing.read():
            theirs.send(bytes((byte,)))
            door.poller.turn()
        incoming.write(theirs.recv(1 << 16))
        assert status(client.read(1000)) == 101
        theirs.close()


async def test_rejected_peer_that_does_not_end_is_closed(door: Door) -> None:
    peer = door.knock(place="here")
    door.poller.now = NOW + 4.0
    peer.say(b"GET /room HTTP/1.1\r\nHost: x\r\n\r\n")
    door.poller.sweep_once(NOW + 9.0)
    assert door.failures == []
    door.poller.sweep_once(NOW + 9.1)
    assert door.failures == ["here"]
    assert door.doorway.statistics().rejected == {"bad_upgrade": 1}


# -- resets


@pytest.mark.parametrize("said", [b"", b"GET ", UPGRADE[:-1]])
async def test_peer_that_goes_away_gives_its_place_back(door: Door, said: bytes) -> None:
    peer = door.knock(place="here")
    peer.say(said)
    peer.reset()
    assert door.failures == ["here"]
    assert door.doorway.statistics().rejected == {"gone": 1}


async def test_peer_that_goes_away_before_the_answer_gives_its_place_back() -> None:
    for request_ in (UPGRADE, b"GET /room HTTP/1.1\r\n\r\n"):
        with open_door() as door:
            peer = door.knock(place="here")
            peer.sock.send(request_)
            peer.sock.close()
            door.poller.turn()
            assert door.failures == ["here"]
            assert door.connections == []


async def test_abort_is_idempotent(door: Door) -> None:
    door.knock(place="here")
    (opening,) = door.poller.handlers()
    opening.abort()
    opening.abort()
    assert door.failures == ["here"]
