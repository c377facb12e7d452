from __future__ import annotations

import socket
from time import monotonic_ns

import pytest
import trio

from bench.poller import IN, NEVER, Poller, no_pace

pytestmark = pytest.mark.usefixtures("no_leaks")
MS = 1_000_000


class Reader:
    """Reads one byte at a time and notes when."""

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        self.sock = sock
        self.poller = poller
        self.read: list[bytes] = []
        poller.add(sock.fileno(), self, IN)

    def on_event(self, events: int) -> None:
        self.read.append(self.sock.recv(1))

    def abort(self) -> None:
        self.poller.remove(self.sock.fileno())
        self.sock.close()


async def test_what_is_due_is_sent_when_it_is_due() -> None:
    poller = Poller()
    start = monotonic_ns()
    due = [start + number * 3 * MS for number in range(10)]
    late: list[int] = []

    def pace(now: int) -> int:
        while due and due[0] <= now:
            late.append(now - due.pop(0))
        return due[0] if due else NEVER

    await poller.drive(pace, start + 5000 * MS, lambda: not due)
    poller.close()
    assert len(late) == 10
    assert min(late) < MS  # of all, as other programs run here too


async def test_sockets_are_read_while_nothing_is_due_and_others_get_their_turn() -> None:
    poller = Poller()
    ours, theirs = socket.socketpair()
    reader = Reader(ours, poller)

    async def write() -> None:
        for byte in b"abc":
            await trio.sleep(0.001)
            theirs.send(bytes((byte,)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await poller.drive(no_pace, monotonic_ns() + 5000 * MS, lambda: len(reader.read) == 3)
    theirs.close()
    assert reader.read == [b"a", b"b", b"c"]
    assert len(poller) == 1
    poller.close()
    assert ours.fileno() == -1


class Remover(Reader):
    """Closes all of its kind, itself included, as soon as it is called."""

    def __init__(self, sock: socket.socket, poller: Poller, all_of_them: list[Remover]) -> None:
        super().__init__(sock, poller)
        self.all_of_them = all_of_them
        all_of_them.append(self)

    def on_event(self, events: int) -> None:
        self.read.append(b"called")
        for reader in self.all_of_them:
            reader.abort()


async def test_handler_that_was_removed_in_the_same_round_is_not_called() -> None:
    poller = Poller()
    removers: list[Remover] = []
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, theirs in pairs:
        Remover(ours, poller, removers)
        theirs.send(b"x")
    await poller.drive(no_pace, monotonic_ns() + 20 * MS)
    for _, theirs in pairs:
        theirs.close()
    poller.close()
    assert sum(len(remover.read) for remover in removers) == 1


async def test_drive_ends_at_its_time_and_can_be_cancelled() -> None:
    poller = Poller()
    start = monotonic_ns()
    await poller.drive(no_pace, start + 20 * MS)
    assert 20 * MS <= monotonic_ns() - start < 5000 * MS
    with trio.move_on_after(0.01) as scope:
        await poller.drive(lambda now: now, NEVER)
    assert scope.cancelled_caught
    poller.close()
