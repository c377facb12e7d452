"""One epoll for all sockets: rounds, fairness, failing handlers, sweeps and the end."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from conn_server.poller import PACE_S, READABLE, SWEEP_CHUNK, WRITABLE, Poller, PollerStatistics, next_pace_s
from tests.conn_server.serving import LOG

pytestmark = pytest.mark.usefixtures("no_leaks")


class Socket:
    """A handler on one end of a pair; `peer` is the other end."""

    def __init__(self, poller: Poller, on_ready: Callable[[Socket], None] | None = None) -> None:
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.poller = poller
        self.heard: list[bytes] = []
        self.events: list[int] = []
        self.swept_at: list[float] = []
        self.aborts = 0
        self._on_ready = on_ready

    def ready(self, events: int) -> None:
        self.events.append(events)
        if self._on_ready is not None:
            self._on_ready(self)
        elif events & READABLE:
            self.heard.append(self.sock.recv(100))

    def swept(self, now: float) -> float:
        self.swept_at.append(now)
        return now + 1

    def abort(self) -> None:
        self.aborts += 1
        if self.sock.fileno() >= 0:
            self.poller.remove(self.sock.fileno())
            self.sock.close()
            self.peer.close()


async def settle(poller: Poller) -> None:
    """Wait until the poller has dealt with all that is ready."""
    await wait_all_tasks_blocked()
    while poller._epoll.poll(0):
        await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()


@asynccontextmanager
async def running() -> AsyncIterator[Poller]:
    poller = Poller(LOG)
    async with trio.open_nursery() as nursery:
        await nursery.start(poller.run)
        yield poller
        nursery.cancel_scope.cancel()
    assert poller.statistics().sockets == 0


def add(poller: Poller, on_ready: Callable[[Socket], None] | None = None) -> Socket:
    handler = Socket(poller, on_ready)
    poller.add(handler.sock.fileno(), handler)
    return handler


async def test_handler_is_called_when_its_socket_is_readable() -> None:
    async with running() as poller:
        one, other = add(poller), add(poller)
        one.peer.send(b"hello")
        await settle(poller)
        assert (one.heard, other.heard) == ([b"hello"], [])
        assert poller.statistics() == PollerStatistics(2, 1, 1, 0, 0)


async def test_time_is_read_once_per_round() -> None:
    async with running() as poller:
        before = poller.now
        add(poller).peer.send(b"x")
        await settle(poller)
        assert before < poller.now <= trio.current_time()


async def test_interest_can_change() -> None:
    async with running() as poller:
        handler = add(poller)
        poller.modify(handler.sock.fileno(), 0)
        handler.peer.send(b"x")
        await settle(poller)
        assert handler.events == []
        poller.modify(handler.sock.fileno(), READABLE)
        await settle(poller)
        assert handler.heard == [b"x"]

        def written(this: Socket) -> None:
            poller.modify(this.sock.fileno(), READABLE)

        writer = add(poller, written)
        poller.modify(writer.sock.fileno(), WRITABLE)
        await settle(poller)
        assert writer.events == [WRITABLE]


async def test_broken_socket_is_told_whatever_is_listened_for() -> None:
    async with running() as poller:
        handler = add(poller, Socket.abort)
        poller.modify(handler.sock.fileno(), 0)
        handler.peer.close()
        await settle(poller)
        assert handler.aborts == 1


async def test_socket_can_be_given_to_another_handler() -> None:
    async with running() as poller:
        first, second = add(poller), Socket(poller)
        second.sock.close()
        second.sock = first.sock
        poller.replace(first.sock.fileno(), second)
        first.peer.send(b"x")
        await settle(poller)
        assert (first.heard, second.heard) == ([], [b"x"])
        second.abort()
        first.peer.close()


async def test_removed_socket_is_driven_no_more() -> None:
    async with running() as poller:
        handler = add(poller)
        poller.remove(handler.sock.fileno())
        handler.peer.send(b"x")
        await settle(poller)
        assert handler.events == []
        handler.sock.close()
        handler.peer.close()


async def test_handler_that_was_closed_in_the_same_round_is_passed_over() -> None:
    async with running() as poller:
        pair: list[Socket] = []

        def close_both(_: Socket) -> None:
            for handler in pair:
                handler.abort()

        pair += [add(poller, close_both), add(poller, close_both)]
        for handler in pair:
            handler.peer.send(b"x")
        await settle(poller)
        assert sum(len(handler.events) for handler in pair) == 1


async def test_failing_handler_loses_its_socket_and_nothing_else() -> None:
    def fail(_: Socket) -> None:
        raise RuntimeError("a defect")

    async with running() as poller:
        bad, good = add(poller, fail), add(poller)
        bad.peer.send(b"x")
        good.peer.send(b"y")
        await settle(poller)
        assert (bad.aborts, good.heard) == (1, [b"y"])
        assert poller.statistics().failures == 1


async def test_driving_a_socket_twice_is_refused() -> None:
    async with running() as poller:
        handler = add(poller)
        with pytest.raises(FileExistsError):
            poller.add(handler.sock.fileno(), handler)
        with pytest.raises((OSError, ValueError)):
            poller.add(-1, handler)
        assert poller.statistics().sockets == 1


async def test_others_have_their_turn_between_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conn_server.poller.ROUND_EVENTS", 8)
    async with running() as poller:
        handlers = [add(poller) for _ in range(50)]
        for handler in handlers:
            handler.peer.send(b"x")
        heard = [0]
        while heard[-1] < len(handlers):
            await trio.lowlevel.checkpoint()
            heard.append(sum(len(handler.heard) for handler in handlers))
        assert max(after - before for before, after in itertools.pairwise(heard)) <= 2 * 8
        assert poller.statistics().rounds >= 7


async def test_end_closes_all_that_are_left() -> None:
    async with running() as poller:
        handlers = [add(poller) for _ in range(3)]
    assert [handler.aborts for handler in handlers] == [1, 1, 1]


async def test_end_is_noticed_by_who_comes_too_late() -> None:
    async with running() as poller:
        pass
    handler = Socket(poller)
    with pytest.raises(ValueError, match="closed"):
        poller.add(handler.sock.fileno(), handler)
    handler.sock.close()
    handler.peer.close()


class Swept:
    """A handler without a socket: the sweep does not look at it.

    Attributes:
        again_s: after this time it wants to be looked at again.
    """

    def __init__(self, again_s: float) -> None:
        self.again_s = again_s
        self.swept_at: list[float] = []
        self.aborts = 0
        self.is_bad = False

    def ready(self, events: int) -> None:
        raise AssertionError(events)

    def swept(self, now: float) -> float:
        self.swept_at.append(now)
        if self.is_bad:
            raise RuntimeError("a defect")
        return now + self.again_s

    def abort(self) -> None:
        self.aborts += 1


async def test_handlers_are_swept_when_they_want_to_be(autojump_clock: trio.testing.MockClock) -> None:
    poller = Poller(LOG)
    handlers = [Swept(again_s=1.0 + number % 2) for number in range(2 * SWEEP_CHUNK + 5)]
    poller._handlers[:] = handlers
    start = trio.current_time()
    for fd in range(len(handlers)):
        poller.look_at(fd, start + 1)
    handlers[3].is_bad = True
    with trio.move_on_after(4.5):
        await poller.sweep(1.0)
    assert all(handler.swept_at == [start + 1, start + 2, start + 3, start + 4] for handler in handlers[::2])
    assert all(handler.swept_at == [start + 1, start + 3] for handler in handlers[5::2])
    assert (handlers[3].aborts, poller.statistics().failures) == (1, 1)


async def test_closed_handler_is_not_swept_and_its_descriptor_is_free_for_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    start = trio.current_time()
    near, far = socket.socketpair()
    gone, new = Swept(again_s=1.0), Swept(again_s=1.0)
    async with running() as poller:
        poller.add(near.fileno(), gone, deadline=start + 1)
        poller.remove(near.fileno())
        poller.add(near.fileno(), new, deadline=start + 2)
        with trio.move_on_after(2.5):
            await poller.sweep(1.0)
        poller.remove(near.fileno())
    assert (gone.swept_at, new.swept_at) == ([], [start + 2])
    near.close()
    far.close()


async def test_deadlines_that_begin_in_a_quiet_hour_do_not_begin_in_the_past(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody said anything for long: a slow member's stall was counted from the last round, and it was
    evicted at once."""
    poller = Poller(LOG)
    with trio.move_on_after(3600):
        await poller.sweep(1.0)
    assert trio.current_time() - poller.now <= 1.0


def test_pace_slows_down_with_few_events_and_speeds_up_with_many() -> None:
    paces = [PACE_S]
    for events in (1, 1, 1, 60, 200, 200, 200):
        paces.append(next_pace_s(paces[-1], events))
    assert [round(pace / PACE_S, 2) for pace in paces] == [1, 2, 4, 6, 6, 3, 1.5, 1]
