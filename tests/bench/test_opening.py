from __future__ import annotations

from time import monotonic_ns

import pytest

from bench.engine import Engine
from bench.opening import Opening, close_all, give_up, numbers_of, open_all
from bench.poller import NEVER
from bench.user import State, User
from schema.envelope import PackageType
from tests.bench.running import open_engine
from tests.clients.fake_server import FakeServer, open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")
NOBODY = "ws://127.0.0.1:9/room"
SECOND = 1_000_000_000


class Waiting(User):
    """Is on its way for ever."""

    def start(self, due_ns: int) -> None:
        self.due_ns = due_ns
        self.state = State.OPENING
        self.engine.opening += 1


def users(engine: Engine, count: int) -> list[User]:
    return [Waiting(engine, number, "room") for number in range(count)]


async def test_only_so_many_are_opened_at_once() -> None:
    async with open_engine(NOBODY, at_once=3) as engine:
        many = users(engine, 5)
        opening = Opening(engine, many, 0)
        assert opening.pace(0) == NEVER
        assert [user.state for user in many] == [State.OPENING] * 3 + [State.NEW] * 2
        engine.opening = 0
        assert not opening.is_done()
        opening.pace(0)
        engine.opening = 0
        assert opening.is_done()


async def test_they_are_opened_at_a_rate() -> None:
    async with open_engine(NOBODY, connect_rate=2.0) as engine:
        opening = Opening(engine, users(engine, 5), 0)
        assert opening.pace(0) == SECOND // 2
        assert opening.pace(SECOND) == 3 * SECOND // 2
        assert engine.opening == 3


async def test_sign_in_counts_from_when_its_connect_was_due() -> None:
    # It counted from the connect itself: a server that held up the connects looked as quick as ever.
    async with open_engine(NOBODY, connect_rate=1000.0, at_once=2) as engine:
        many = users(engine, 5)
        opening = Opening(engine, many, 0)
        opening.pace(0)
        opening.pace(SECOND // 1000)
        assert engine.counts["held_up"] == 0
        assert opening.pace(SECOND // 2) == NEVER  # both places are taken
        engine.opening = 0
        opening.pace(SECOND)
        assert [user.due_ns for user in many[:4]] == [n * SECOND // 1000 for n in range(4)]
        assert engine.counts["held_up"] == 2


async def test_clients_that_are_still_to_come_by_the_rate_are_not_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.opening.OPEN_TIMEOUT_S", 0.05)
    async with (
        open_fake_server() as server,
        open_engine(server.room_url, connections=10, connect_rate=40.0) as engine,
    ):
        await open_all(engine, [User(engine, number, engine.room(0)) for number in numbers_of(engine)])
        assert engine.signed_in == 10
        assert engine.counts["opening_ns"] >= 9 * SECOND // 40


async def test_all_are_opened_and_closed() -> None:
    async with (
        open_fake_server() as server,
        open_engine(server.room_url, connections=20, at_once=4) as engine,
    ):
        assert numbers_of(engine) == range(20)
        members = [User(engine, number, engine.room(0)) for number in numbers_of(engine)]
        await open_all(engine, members)
        assert engine.signed_in == len(server.members) == 20
        await close_all(engine, members)
        await server.wait_for_members(0)
        assert engine.outcome().problems == {}


async def test_who_gets_no_answer_is_given_up() -> None:
    server = FakeServer(silent={PackageType.SIGN_IN})
    async with open_fake_server(server), open_engine(server.room_url) as engine:
        user = User(engine, 0, engine.room(0))
        user.start(monotonic_ns())
        give_up([user])
        assert engine.outcome().problems == {"not signed in: no answer in time": 1}
