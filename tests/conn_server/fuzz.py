"""Differential fuzz: our connection against plain wsproto, on the same bytes cut at random places.

    python -m tests.conn_server.fuzz --seconds 20 --seed 1

Both must hear the same messages, answer the same pings, and close with the same code, in the same order.  A
failure prints its pieces, ready to become a test, and the seed that finds it again at once.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

import trio
from wsproto.connection import Connection as Reference, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from conn_server.connection import Limits, Pause
from conn_server.frames import encode_frame
from tests.conn_server.driven import open_door
from tests.conn_server.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, frame, parse_frames

NO_LIMIT = (1 << 63) - 1  # more is no length (RFC 6455 section 5.2)
LIMITS = Limits(NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT)
END = bytes(6000)
"""Ends what mutation has left begun: we judge a small frame when it is there, wsproto by its header.  Without
mutation every frame is whole, and nothing may be waited for beyond its last byte."""
SIZES = (0, 0, 1, 2, 3, 4, 5, 30, 125, 126, 127, 300, 4081, 4082, 4083, 4088, 4089, 5000, 65535, 65536)
FIRSTS = (*[BINARY] * 8, *[TEXT] * 4, 0x01, 0x02, 0x02, 0x00, 0x00, *[CONTINUATION] * 3, PING, PING, PONG)
ODD_FIRSTS = (CLOSE, 0x08, 0x09, 0x0A, 0x83, 0x8B, 0xC2, 0xA1, 0x91, 0xF9)
CODES = (0, 999, 1000, 1001, 1004, 1005, 1006, 1007, 1011, 1012, 1015, 2999, 3000, 4999, 5000)
TEXTS = ("é€x".encode(), "κόσμε".encode(), b"\xf0\x9f\x98\x80", b"\xff", b"\xc3", b"\xed\xa0\x80", b"ascii")


def expect(pieces: Sequence[bytes]) -> list[Frame]:
    """Return what a server that echoes answers, by wsproto; of its own close frames only the code."""
    reference, answers, parts = Reference(ConnectionType.SERVER), bytearray(), bytearray()
    for piece in pieces:
        reference.receive_data(piece)
        for event in reference.events():
            if isinstance(event, TextMessage | BytesMessage):
                parts += event.data.encode() if isinstance(event.data, str) else event.data
                if event.message_finished:
                    answers += encode_frame(bytes(parts))
                    parts.clear()
            elif isinstance(event, Ping):
                answers += reference.send(event.response())
            elif isinstance(event, CloseConnection):
                answers += reference.send(event.response())
                return shorten(bytes(answers))
    return shorten(bytes(answers))


class TwoBytes(dict[bytes, bytes]):
    """Standing answers to all messages of two bytes: themselves, as the receiver answers them."""

    def get(self, message: bytes, default: object = None) -> bytes | None:  # type: ignore[override]
        """Return the frame of the answer."""
        return encode_frame(message) if len(message) == 2 else None


def observe(pieces: Sequence[bytes], pause: random.Random | None, *, stands: bool = False) -> list[Frame]:
    """Return what ours answers.

    Args:
        pieces: one read each, so of at most 16 KiB.
        pause: pauses at some messages, to be answered and resumed later.
        stands: the receiver is not asked about messages of two bytes.
    """
    with open_door(limits=LIMITS) as door:
        connection, echo, peer = door.enter()

        class Pausing:
            """Echoes what it is given, at once or later."""

            waiting: bytes | None = None

            def receive(self, payload: bytes, now: float) -> bytes | Pause | None:
                assert self.waiting is None, "a message in the middle of work"
                if pause is None or pause.random() < 0.7:
                    return payload
                self.waiting = payload
                return Pause.PAUSE

            def swept(self, now: float) -> float:
                return now + 1

            def closing(self) -> None: ...
            def closed(self, code: int) -> None: ...

        pausing = Pausing()
        connection._receiver = pausing
        if stands:
            connection.standing = TwoBytes()
        heard = b""
        for piece in pieces:
            peer.say(piece)
            while pausing.waiting is not None:
                door.poller.turn()
                payload, pausing.waiting = pausing.waiting, None
                connection.send_frame(encode_frame(payload), 1)  # type: ignore[arg-type]
                connection.resume()
            heard += peer.hear()
            if connection.state:
                break
        heard += peer.hear()
        assert not connection.state or peer.is_at_end
        assert not echo.received
        return shorten(heard)


def shorten(answered: bytes) -> list[Frame]:
    frames, rest = parse_frames(answered)
    assert not rest, rest
    return [(first, payload[:2] if first == CLOSE else payload) for first, payload in frames]


def make(rnd: random.Random) -> list[bytes]:
    """Return a random conversation, cut into pieces."""
    oddness = rnd.choice((0.0, 0.0, 0.02, 0.2))
    frames = [make_frame(rnd, oddness) for _ in range(rnd.randrange(1, 12))]
    if rnd.random() < 0.3:
        body = rnd.choice(CODES).to_bytes(2, "big") + rnd.choice((b"", b"bye", b"\xff"))
        frames.append(frame(body, CLOSE))
    data = b"".join(frames)
    if rnd.random() < oddness:
        mutated = bytearray(data)
        for _ in range(rnd.randrange(1, 4)):
            mutated[rnd.randrange(min(len(mutated), 200))] = rnd.randrange(256)
        return [*cut(rnd, bytes(mutated)), END]
    if rnd.random() < 0.5:  # the ends of frames, where waiting goes wrong
        return [piece for one in frames for piece in (*cut(rnd, one[:-1]), one[-1:])]
    return cut(rnd, data)


def make_frame(rnd: random.Random, oddness: float) -> bytes:
    first = rnd.choice(ODD_FIRSTS if rnd.random() < oddness else FIRSTS)
    size = rnd.choice(SIZES[:10] if rnd.random() < 0.7 else SIZES)
    if first & 0x08:
        size = min(size, 125 if rnd.random() > oddness else 126)
    if first & 0x0F in (0, 1):
        text = rnd.choice(TEXTS if rnd.random() < 2 * oddness else (TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[6]))
        payload = text * (size // len(text)) if rnd.random() > oddness else (text * size)[:size]
    else:
        payload = rnd.randbytes(size)
    form = rnd.choice((126, 127)) if rnd.random() < oddness and size < 126 else 0
    return frame(payload, first, key=rnd.randbytes(4) if rnd.random() > oddness / 3 else None, form=form)


def cut(rnd: random.Random, data: bytes) -> list[bytes]:
    most = (
        rnd.choice((1, 3, 20, 256, 257, 4096, 16_000)) if len(data) < 20_000 else rnd.choice((4096, 16_000))
    )
    pieces, at = [], 0
    while at < len(data):
        size = rnd.choice((1, most, rnd.randrange(1, most + 1)))
        pieces.append(data[at : at + size])
        at += size
    return pieces


def check(pieces: Sequence[bytes], pause: random.Random | None, *, stands: bool = False) -> None:
    assert observe(pieces, pause, stands=stands) == expect(pieces)


async def run(seconds: float, seed: int) -> int:
    """Check conversation after conversation; return how many."""
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        rnd = random.Random(seed + count)
        pieces = make(rnd)
        try:
            check(pieces, rnd if (seed + count) % 2 else None, stands=(seed + count) % 4 < 2)
        except AssertionError as exc:
            shown = ", ".join("END" if piece is END else repr(piece) for piece in pieces)
            raise SystemExit(f"[{shown}]\nfuzz: not the same with --seed {seed + count}: {exc!r}") from exc
        count += 1
        if count % 100 == 0:
            await trio.lowlevel.checkpoint()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conn_server.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    count = trio.run(run, arguments.seconds, seed)
    sys.stdout.write(f"fuzz: {count} conversations from seed {seed}: the same as wsproto\n")


if __name__ == "__main__":
    main()
