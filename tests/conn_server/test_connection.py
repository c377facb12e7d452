"""One connection: pausing, answers in order, what is bounded, slow peers, and every way to its end."""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from conn_server.connection import CLOSED, CLOSING, OPEN, Connection, Limits, Pause
from conn_server.frames import encode_frame
from conn_server.poller import READABLE
from schema.closing import CloseCode
from schema.message import Level
from tests.conn_server.conftest import Tls
from tests.conn_server.driven import Door, Echo, open_door
from tests.conn_server.raw import BINARY, CLOSE, PING, PONG, TEXT, close, close_code, cut_bytewise, frame

pytestmark = pytest.mark.usefixtures("no_leaks")

LIMITS = Limits(
    max_frame_bytes=100_000,
    max_message_bytes=100_000,
    outbox_soft_bytes=20_000,
    outbox_hard_bytes=40_000,
)


@pytest.fixture(params=["plain", "tls"])
async def door(request: pytest.FixtureRequest, tls: Tls) -> AsyncIterator[Door]:
    """Async, since a poller reads Trio's clock."""
    with open_door(limits=LIMITS, tls=tls.both if request.param == "tls" else None) as door:
        yield door


def fill(connection: Connection, payload: bytes = b"x" * 1000) -> int:
    """Send until the socket takes no more; return how many frames that was."""
    count = 0
    while connection.outbox is None:
        connection.send(payload, Level.IMPORTANT)
        count += 1
    return count


def waiting_bytes(connection: Connection) -> int:
    return connection.outbox.size_bytes if connection.outbox is not None else 0


# -- frames in


async def test_last_byte_of_a_big_frame_is_not_waited_past(door: Door) -> None:
    """A big frame goes piece by piece to wsproto; a piece of one byte, its last, was left in the tail."""
    _, echo, peer = door.enter()
    data = frame(b"b" * 5000)
    peer.say(data[:-1])
    assert echo.received == []
    peer.say(data[-1:])
    assert echo.received == [b"b" * 5000]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 4082, 4083, 4088, 4089, 65535, 65536])
async def test_frame_of_any_size_may_come_byte_by_byte(door: Door, size: int) -> None:
    _, echo, peer = door.enter()
    payload = bytes(range(256)) * 256
    peer.say(*cut_bytewise(frame(payload[:size])), frame(b"next"))
    assert echo.received == [payload[:size], b"next"]
    assert peer.frames() == [(BINARY, payload[:size]), (BINARY, b"next")]


async def test_answers_leave_in_order_and_before_what_wsproto_answers(door: Door) -> None:
    _, _, peer = door.enter()
    peer.say(frame(b"1") + frame(b"p", PING) + frame(b"2") + frame(b"t", TEXT) + close(1000))
    assert peer.frames() == [
        (BINARY, b"1"),
        (PONG, b"p"),
        (BINARY, b"2"),
        (BINARY, b"t"),
        (CLOSE, b"\x03\xe8"),
    ]


STANDING = {b"hb": encode_frame(b"pong")}
HEARTBEAT = frame(b"hb")


async def test_standing_answer_is_given_without_asking_the_receiver(door: Door) -> None:
    connection, echo, peer = door.enter()
    peer.say(HEARTBEAT)
    assert (echo.received, peer.frames()) == ([b"hb"], [(BINARY, b"hb")])
    connection.standing = STANDING
    connection.last_seen -= 5
    for alone in (HEARTBEAT, HEARTBEAT * 3, HEARTBEAT + frame(b"x") + HEARTBEAT):
        peer.say(alone)
    peer.say(frame(b"hc"), frame(b"hb", TEXT))
    pong, x, other = (BINARY, b"pong"), (BINARY, b"x"), (BINARY, b"hc")
    assert peer.frames() == [pong, *[pong] * 3, pong, x, pong, other, pong]
    assert echo.received == [b"hb", b"x", b"hc"]
    assert connection.last_seen == door.poller.now
    assert door.wire.frames == 10


async def test_standing_message_is_none_in_the_middle_of_another(door: Door) -> None:
    connection, echo, peer = door.enter()
    connection.standing = STANDING
    # Eight bytes read alone: the end of a frame, a piece of a big one, and not allowed where they stand.
    looks_like_one = frame(b"hb", key=bytes(4))
    for size in (100, 5000):
        whole = frame(bytes(size - 8) + looks_like_one, key=bytes(4))
        peer.say(whole[:-8], whole[-8:])
        assert peer.frames() == [(BINARY, bytes(size - 8) + looks_like_one)]
    peer.say(frame(b"begun", 0x02), looks_like_one)
    assert [close_code(closing) for closing in peer.frames()] == [CloseCode.PROTOCOL_ERROR]
    assert echo.closings == 1


async def test_standing_answers_wait_behind_what_a_slow_peer_has_not_taken(door: Door) -> None:
    connection, _, peer = door.enter()
    connection.standing = STANDING
    count = fill(connection)
    peer.say(HEARTBEAT)
    frames = peer.frames()
    while connection.outbox is not None:
        frames += peer.frames()
    assert frames == [*[(BINARY, b"x" * 1000)] * count, (BINARY, b"pong")]


async def test_no_standing_answer_is_given_while_work_is_under_way_or_closing(door: Door) -> None:
    connection, echo, peer = door.enter()
    connection.standing = STANDING
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(frame(b"work"), HEARTBEAT)
    assert peer.frames() == []
    connection.resume()
    assert peer.frames() == [(BINARY, b"pong")]
    connection.close(CloseCode.GOING_AWAY)
    peer.say(HEARTBEAT)
    assert connection.state == CLOSING  # its side has ended: a frame would have been an error
    assert [first for first, _ in peer.frames()] == [CLOSE]


async def test_nothing_is_kept_at_rest(door: Door) -> None:
    connection, _, peer = door.enter()
    peer.say(frame(b"a", PING), frame(b"ab", 0x02), frame(b"c", PING), frame(b"d", 0x80), frame(b"e" * 9000))
    assert connection._unusual is None
    assert connection._tail == b""
    assert connection.outbox is None


async def test_counts_whole_frames_and_only_they_are_signs_of_life(door: Door) -> None:
    connection, _, peer = door.enter()
    connection.last_seen = 0.0
    peer.say(*(frame(b"x" * 100)[at : at + 1] for at in range(100)))
    assert (door.wire.frames, connection.last_seen) == (0, 0.0)
    peer.say(frame(b"x" * 100)[100:])
    assert door.wire.frames == 1
    assert connection.last_seen == door.poller.now


async def test_what_waits_for_the_end_of_a_frame_is_bounded(door: Door) -> None:
    connection, _, peer = door.enter()
    peer.say(frame(b"x" * 90_000)[:-1])
    assert len(connection._tail) < 4096
    connection.abort()


# -- pausing


async def test_reading_stops_while_work_is_under_way(door: Door) -> None:
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(frame(b"a") + frame(b"work") + frame(b"b") + frame(b"work") + frame(b"c"))
    assert echo.received == [b"a", b"work"]
    assert peer.frames() == [(BINARY, b"a")]
    connection.resume()
    assert echo.received == [b"a", b"work", b"b", b"work"]
    connection.resume()
    assert echo.received == [b"a", b"work", b"b", b"work", b"c"]
    assert peer.frames() == [(BINARY, b"b"), (BINARY, b"c")]


async def test_what_a_peer_sends_during_work_stays_in_the_kernel(door: Door) -> None:
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(frame(b"work"))
    with pytest.raises(AssertionError, match="takes nothing more"):
        peer.say(frame(b"z" * 1000) * 10_000)
    assert len(connection._tail) < 20_000
    assert echo.received == [b"work"]
    connection.abort()


async def test_resuming_reads_what_tls_has_decrypted_already(door: Door) -> None:
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(b"".join(frame(b"work") + frame(b"%d" % n * 50) for n in range(20)))  # one TLS record
    for _ in range(20):
        connection.resume()
    assert echo.received == [p for n in range(20) for p in (b"work", b"%d" % n * 50)]
    peer.say(frame(b"end"))
    assert echo.received[-1] == b"end"


async def test_time_that_work_took_is_not_the_peers_silence(door: Door) -> None:
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(frame(b"work"))
    connection.last_seen = 0.0
    connection.resume()
    assert connection.last_seen == door.poller.now > 0.0


async def test_closing_in_the_middle_of_work_reads_on_and_throws_away(door: Door) -> None:
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(frame(b"work"), frame(b"waiting") * 1000)
    connection.close(4001)
    peer.say(frame(b"z" * 1000) * 3000)
    connection.resume()
    assert echo.received == [b"work"]
    assert close_code(peer.frames()[0]) == 4001


async def test_resuming_what_is_not_paused_changes_nothing(door: Door) -> None:
    connection, echo, peer = door.enter()
    connection.resume()
    peer.say(frame(b"a"))
    connection.abort()
    connection.resume()
    assert echo.received == [b"a"]


async def test_peer_that_resets_during_work_ends_the_connection(door: Door) -> None:
    """EPOLLHUP cannot be masked: a paused connection must not keep the poller spinning."""
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(frame(b"work"), frame(b"more"))
    peer.reset()
    assert connection.state == CLOSED
    assert echo.codes == [CloseCode.ABNORMAL]


async def test_peer_that_resets_during_work_and_with_a_full_outbox_fails_no_handler(door: Door) -> None:
    """Writing finds the reset first and closes the socket; the read event of the same round came too late."""
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    fill(connection)
    peer.say(frame(b"work"))
    peer.sock.close()
    connection.ready(door.poller._epoll.poll(0)[0][1])
    assert connection.state == CLOSED
    assert echo.codes == [CloseCode.ABNORMAL]


async def test_peer_that_ends_during_work_is_noticed_after_it(door: Door) -> None:
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(frame(b"work") + close(1000))
    assert connection.state == OPEN
    connection.resume()
    assert connection.state == CLOSING
    assert peer.frames() == [(CLOSE, b"\x03\xe8")]


async def test_drain_lets_the_work_under_way_end_and_be_answered(door: Door) -> None:
    connection, echo, peer = door.enter()
    echo.answers[b"work"] = Pause.PAUSE
    peer.say(frame(b"work") + frame(b"never read"))
    connection.drain(1001, "bye")
    assert connection.state == OPEN
    connection.send(b"done", Level.IMPORTANT)
    connection.resume()
    assert peer.frames() == [(BINARY, b"done"), (CLOSE, b"\x03\xe9bye")]
    assert echo.received == [b"work"]


async def test_drain_closes_at_once_where_nothing_is_under_way(door: Door) -> None:
    connection, echo, peer = door.enter()
    connection.drain(1001, "bye")
    assert connection.state == CLOSING
    assert peer.frames() == [(CLOSE, b"\x03\xe9bye")]
    assert echo.closings == 1


# -- slow peers


async def test_slow_reader_gets_everything_in_order(door: Door) -> None:
    connection, _, peer = door.enter()
    sent = 0
    while waiting_bytes(connection) < 15_000:
        connection.send(struct.pack("!I", sent) * 250, Level.IMPORTANT)
        sent += 1
    heard = peer.frames()
    assert heard == [(BINARY, struct.pack("!I", number) * 250) for number in range(sent)]
    assert waiting_bytes(connection) == 0
    peer.say(frame(b"still there"))
    assert peer.frames() == [(BINARY, b"still there")]


async def test_normal_frames_are_dropped_and_counted_beyond_the_soft_limit(door: Door) -> None:
    connection, echo, peer = door.enter()
    before = fill(connection)
    for _ in range(100):
        connection.send(b"n" * 1000, Level.NORMAL)
    assert connection.outbox is not None
    assert connection.outbox.size_bytes <= 20_000
    kept = 100 - door.wire.statistics().dropped_normal["full"]
    assert 10 < kept < 20
    assert echo.codes == []
    assert peer.frames() == [(BINARY, b"x" * 1000)] * before + [(BINARY, b"n" * 1000)] * kept


async def test_important_frames_that_do_not_fit_evict_with_4008(door: Door) -> None:
    connection, echo, peer = door.enter()
    fill(connection)
    while not echo.closings:
        connection.send(b"i" * 1000, Level.IMPORTANT)
        assert waiting_bytes(connection) < 41_100
    assert echo.closings == 1
    assert 0 < waiting_bytes(connection) < 2000  # what is half written, and the close frame
    *_, last = peer.frames()
    assert close_code(last) == CloseCode.SLOW_CONSUMER
    assert peer.is_at_end
    statistics = door.wire.statistics()
    assert statistics.evicted == {"overflow": 1}
    assert statistics.closed == {CloseCode.SLOW_CONSUMER: 1}


async def test_peer_that_takes_nothing_is_evicted_after_the_stall_timeout(door: Door) -> None:
    connection, _, peer = door.enter()
    now = door.poller.now = 1000.0
    fill(connection)
    door.poller.sweep_once(now + 20.0)
    assert connection.state == OPEN
    door.poller.sweep_once(now + 20.1)
    assert connection.state == CLOSING
    assert door.wire.statistics().evicted == {"stalled": 1}
    assert peer.frames()[-1][0] == CLOSE


async def test_evicted_peer_that_takes_nothing_is_gone_after_the_close_timeout(door: Door) -> None:
    connection, echo, _ = door.enter()
    now = door.poller.now = 1000.0
    fill(connection)
    door.poller.now = now + 21
    door.poller.sweep_once(now + 21)
    door.poller.sweep_once(now + 26)
    assert connection.state == CLOSING
    door.poller.sweep_once(now + 26.1)
    assert connection.state == CLOSED
    assert echo.codes == [CloseCode.ABNORMAL]


async def test_what_an_evicted_member_does_not_get_is_counted_by_level(door: Door) -> None:
    connection, _, peer = door.enter()
    now = door.poller.now = 1000.0
    sent = fill(connection)
    for level in (Level.NORMAL, Level.NORMAL, Level.IMPORTANT):
        connection.send(b"waits", level)
    door.poller.sweep_once(now + 20.1)
    statistics = door.wire.statistics()
    assert statistics.evicted == {"stalled": 1}
    assert (statistics.dropped_normal, statistics.dropped_important) == ({"evicted": 2}, {"evicted": 1})
    assert len(peer.frames()) == sent + 1  # what was half written then, and the close frame


async def test_important_frame_that_evicts_is_counted_with_those_before_it(door: Door) -> None:
    connection, echo, peer = door.enter()
    sent = fill(connection)
    while not echo.closings:
        connection.send(b"i" * 1000, Level.IMPORTANT)
        sent += 1
    (*heard, _) = peer.frames()
    assert door.wire.statistics().dropped_important == {"evicted": sent - len(heard)}


async def test_what_waits_when_the_socket_ends_is_counted_as_gone(door: Door) -> None:
    connection, _, peer = door.enter()
    fill(connection)
    connection.send(b"waits", Level.NORMAL)
    peer.reset()
    statistics = door.wire.statistics()
    assert (statistics.dropped_normal, statistics.dropped_important) == ({"gone": 1}, {"gone": 1})


async def test_frame_for_a_peer_that_has_gone_unnoticed_is_counted_as_gone(door: Door) -> None:
    connection, _, peer = door.enter()
    peer.sock.close()
    while connection.state == OPEN:
        connection.send(b"x", Level.NORMAL)
    assert door.wire.statistics().dropped_normal == {"gone": 1}


async def test_close_frame_that_is_never_written_is_no_loss(door: Door) -> None:
    connection, _, _ = door.enter()
    now = door.poller.now = 1000.0
    fill(connection)
    connection.close(CloseCode.GOING_AWAY)
    door.poller.sweep_once(now + 5.1)
    assert connection.state == CLOSED
    assert door.wire.statistics().dropped_important == {"gone": 1}  # the one that was half written


async def test_progress_puts_the_stall_off() -> None:
    with open_door() as door:
        connection, _, peer = door.enter()
        now = door.poller.now = 1000.0
        fill(connection)
        while (size := waiting_bytes(connection)) < 900_000:
            connection.send(b"x" * 10_000, Level.IMPORTANT)
        door.poller.now = now + 19
        while waiting_bytes(connection) == size:
            peer.sock.recv(4096)
            door.poller.turn()
        assert waiting_bytes(connection) > 0
        door.poller.sweep_once(now + 38)
        assert connection.state == OPEN
        door.poller.sweep_once(now + 40)
        assert connection.state == CLOSING


async def test_peer_that_reads_a_large_frame_slowly_but_steadily_is_kept(door: Door) -> None:
    """Over TLS a frame was sent as a whole or not at all: nothing counted as progress before its end."""
    connection, _, peer = door.enter()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    now = door.poller.now = 1000.0
    connection.send(b"x" * 90_000, Level.IMPORTANT)
    while connection.outbox is not None:
        now += 1.0
        door.poller.now = now
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            peer.sock.recv(1500)
        door.poller.turn()
        door.poller.sweep_once(now)
    assert connection.state == OPEN
    assert now - 1000.0 > 2 * LIMITS.stall_timeout_s


async def test_large_frames_come_whole_however_little_of_them_is_taken_at_a_time(door: Door) -> None:
    door.wire.limits = Limits()
    connection, _, peer = door.enter()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    payloads = [bytes((number,)) * size for number, size in enumerate((16_380, 16_381, 32_768, 50_000, 9))]
    for payload in payloads:
        connection.send(payload, Level.IMPORTANT)
        if waiting_bytes(connection):
            for _ in range(3):  # some, not all: the next one is offered behind a half written one
                with suppress(BlockingIOError, ssl.SSLWantReadError):
                    peer.keep(peer.sock.recv(700))
                door.poller.turn()
    assert waiting_bytes(connection) > 0
    assert peer.frames() == [(BINARY, payload) for payload in payloads]


async def test_peer_that_pings_and_never_reads_is_evicted(door: Door) -> None:
    _, echo, peer = door.enter()
    while echo.closings == 0:
        peer.say(frame(b"p" * 125, PING) * 100)
    assert door.wire.statistics().evicted == {"overflow": 1}


async def test_nothing_is_sent_once_closing_has_begun(door: Door) -> None:
    connection, _, peer = door.enter()
    connection.close(1000)
    connection.send(b"late", Level.IMPORTANT)
    assert peer.frames() == [(CLOSE, b"\x03\xe8")]


# -- the end


async def test_close_sends_code_and_reason_and_waits_for_the_peer_to_end(door: Door) -> None:
    connection, echo, peer = door.enter()
    connection.close(CloseCode.SIGN_IN_TIMEOUT)
    assert peer.frames() == [(CLOSE, b"\x0f\xa1no sign-in in time")]
    assert peer.is_at_end
    assert (connection.state, echo.codes) == (CLOSING, [])
    peer.sock.close()
    door.poller.turn()
    assert (connection.state, echo.codes, echo.closings) == (CLOSED, [CloseCode.ABNORMAL], 1)
    assert door.wire.statistics().closed == {CloseCode.SIGN_IN_TIMEOUT: 1}


async def test_what_comes_while_closing_is_thrown_away_without_a_reset(door: Door) -> None:
    connection, echo, peer = door.enter()
    connection.close(1001, "bye")
    if door.tls is None:
        peer.say(frame(b"late") * 1000, frame(b"late", PING))
    assert echo.received == []
    assert peer.frames() == [(CLOSE, b"\x03\xe9bye")]


async def test_peer_that_ignores_the_close_is_gone_after_the_close_timeout(door: Door) -> None:
    connection, _, _ = door.enter()
    now = door.poller.now = 1000.0
    connection.close(1000)
    door.poller.sweep_once(now + 5.0)
    assert connection.state == CLOSING
    door.poller.sweep_once(now + 5.1)
    assert connection.state == CLOSED


async def test_flood_while_closing_puts_nothing_off(door: Door) -> None:
    connection, _, peer = door.enter()
    now = door.poller.now = 1000.0
    connection.close(1000)
    door.poller.now = now + 4
    if door.tls is None:
        peer.say(frame(b"x") * 100)
    door.poller.sweep_once(now + 5.1)
    assert connection.state == CLOSED


async def test_long_reason_is_cut_to_what_a_close_frame_holds(door: Door) -> None:
    connection, _, peer = door.enter()
    connection.close(1000, "r" * 200)
    assert peer.frames() == [(CLOSE, b"\x03\xe8" + b"r" * 123)]


async def test_second_close_changes_nothing(door: Door) -> None:
    connection, echo, peer = door.enter()
    connection.close(1001, "first")
    connection.close(1011, "second")
    assert peer.frames() == [(CLOSE, b"\x03\xe9first")]
    assert echo.closings == 1
    assert door.wire.statistics().closed == {1001: 1}


async def test_abort_tells_the_receiver_once_and_is_idempotent(door: Door) -> None:
    connection, echo, peer = door.enter()
    connection.abort(CloseCode.GOING_AWAY)
    connection.abort()
    connection.close(1000)
    connection.feed(frame(b"late"))
    connection.send(b"late", Level.NORMAL)
    assert echo.codes == [CloseCode.GOING_AWAY]
    assert echo.received == []
    assert connection.sock.fileno() == -1
    assert door.poller.statistics().sockets == 0
    assert door.wire.statistics().closed == {1001: 1}
    peer.frames()
    assert peer.is_at_end


async def test_peer_that_ends_without_a_close_frame_is_counted_as_1006(door: Door) -> None:
    connection, echo, peer = door.enter()
    peer.reset()
    assert (connection.state, echo.codes) == (CLOSED, [CloseCode.ABNORMAL])
    assert door.wire.statistics().closed == {1006: 1}


async def test_reset_in_the_middle_of_anything_ends_the_connection(door: Door) -> None:
    for data in (frame(b"x" * 100)[:50], frame(b"x" * 9000)[:5000], frame(b"a", 0x02), close(1000)[:3]):
        connection, _, peer = door.enter()
        peer.say(data)
        peer.reset()
        assert connection.state == CLOSED


async def test_send_to_a_peer_that_has_gone_ends_the_connection(door: Door) -> None:
    connection, echo, peer = door.enter()
    peer.sock.close()
    while connection.state == OPEN:
        connection.send(b"x", Level.NORMAL)
    assert (connection.state, echo.codes) == (CLOSED, [CloseCode.ABNORMAL])


async def test_defect_in_the_receiver_ends_this_connection_with_1011(door: Door) -> None:
    _, echo, peer = door.enter()
    _, _, other = door.enter()

    def fail() -> None:
        raise RuntimeError("a defect")

    echo.answers[b"boom"] = fail
    peer.say(frame(b"boom") + frame(b"late"))
    assert close_code(peer.frames()[0]) == CloseCode.INTERNAL_ERROR
    assert echo.received == [b"boom"]
    other.say(frame(b"well"))
    assert other.frames() == [(BINARY, b"well")]


async def test_closing_by_the_receiver_within_a_read_stops_it(door: Door) -> None:
    connection, echo, peer = door.enter()

    def leave() -> bytes:
        connection.close(4003)
        return b"too late"

    echo.answers[b"leave"] = leave
    peer.say(frame(b"leave") + frame(b"late"))
    assert [close_code(f) for f in peer.frames()] == [4003]
    assert echo.received == [b"leave"]


async def test_deadlines_of_the_receiver_are_looked_at_while_open(door: Door) -> None:
    connection, echo, _ = door.enter()
    door.poller.sweep_once(5.0)
    connection.close(1000)
    door.poller.sweep_once(6.0)
    assert echo.swept_at == [5.0]


async def test_closed_connection_is_freed_without_the_collector(door: Door) -> None:
    peer = door.enter()[2]
    peer.say(frame(b"a", PING), frame(b"b", 0x02), frame(b"c", 0x80))
    gc.collect()
    gc.disable()
    try:
        freed = weakref.ref(door.receivers.pop())
        peer.reset()
        door.connections.clear()
        assert freed() is None
    finally:
        gc.enable()


async def test_reset_over_tcp_is_an_end_like_any_other() -> None:
    with open_door() as door, socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        ours.setblocking(False)
        echo = Echo()
        connection = Connection(ours, door.wire, echo)
        door.poller.add(ours.fileno(), connection)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        while connection.state == OPEN:
            door.poller.turn()
        assert echo.codes == [CloseCode.ABNORMAL]


async def test_unfinished_send_by_a_broadcast_is_gone_on_with() -> None:
    with open_door() as door:
        connection, _, peer = door.enter()
        first, second = encode_frame(b"a" * 100), encode_frame(b"b" * 100)
        connection.sock.send(first[:7])
        connection.unsent([(first, Level.NORMAL)], 7, None)
        connection.send_frame(second, Level.NORMAL)
        assert peer.frames() == [(BINARY, b"a" * 100), (BINARY, b"b" * 100)]


@pytest.mark.parametrize("sent", [0, 1, 101, 102, 103, 150, 203, 204, 205, 305])
async def test_send_of_several_frames_is_gone_on_with_wherever_it_stopped(sent: int) -> None:
    with open_door() as door:
        connection, _, peer = door.enter()
        frames = [(encode_frame(letter * 100), Level.NORMAL) for letter in (b"a", b"b", b"c")]
        joined = b"".join([frame for frame, _ in frames])
        connection.sock.send(joined[:sent])
        connection.unsent(frames, sent, None if sent else BlockingIOError())
        assert connection.outbox is not None
        assert connection.outbox.size_bytes == len(joined) - sent
        assert len(connection.outbox) == 3 - sent // 102
        assert peer.frames() == [(BINARY, letter * 100) for letter in (b"a", b"b", b"c")]
        assert connection.outbox is None


async def test_frames_that_a_broken_socket_did_not_take_are_counted_by_level() -> None:
    with open_door() as door:
        connection, echo, _ = door.enter()
        levels = (Level.NORMAL, Level.IMPORTANT, Level.NORMAL)
        connection.unsent([(b"frame", level) for level in levels], 0, ConnectionResetError())
        assert echo.codes == [CloseCode.ABNORMAL]
        statistics = door.wire.statistics()
        assert statistics.dropped_normal["gone"] == 2
        assert statistics.dropped_important["gone"] == 1


async def test_frames_of_which_the_outbox_cannot_hold_all_evict() -> None:
    with open_door(limits=Limits(outbox_soft_bytes=100, outbox_hard_bytes=250)) as door:
        connection, echo, peer = door.enter()
        connection.unsent([(encode_frame(b"x" * 100), Level.IMPORTANT) for _ in range(5)], 50, None)
        assert connection.state == CLOSING
        assert door.wire.statistics().evicted == {"overflow": 1}
        assert echo.closings == 1
        peer.sock.close()


async def test_events_of_a_closed_connection_change_nothing() -> None:
    with open_door() as door:
        connection, echo, _ = door.enter()
        connection.abort()
        connection.ready(READABLE)
        assert echo.codes == [CloseCode.ABNORMAL]


async def test_close_code_that_a_client_made_up_gets_no_label_of_its_own(door: Door) -> None:
    connection, _, peer = door.enter()
    peer.say(close(4777))
    assert connection.state != OPEN
    assert door.wire.statistics().closed == {0: 1}
