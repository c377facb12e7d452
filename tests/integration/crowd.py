"""Constant load for a cluster: members who come back when they lose their server, and who talk meanwhile.

async with open_crowd(cluster, Talk(members=24, rooms=4)) as crowd:
    ...                                    # faults
    await crowd.hush()                     # nobody says anything any more, everything has been answered
    assert not await crowd.settle()        # everybody has got what it is owed

open_crowd
 |- clock
 |- members             in turn in each room, at each conn server, and of each client generation
 |   `- the first of a room at a server talks: its next message follows the answer to the last one
 `- back ends           POST /msg, one for each conn server
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx2
import trio

from clients.python import Client, ClientError, PublishRefused
from schema.message import Level
from tests.http import http_client
from tests.integration.cluster import Cluster, token_of
from tests.integration.ledger import Ledger, Missing, Said
from tests.runtime.queue.nsq.daemons import until

TICK_S = 0.02
LONGEST_TICK_S = 0.1
COME_BACK_AFTER_S = 0.1
IN_WITHIN_S = 60.0
HUSHED_WITHIN_S = 30.0
SETTLED_WITHIN_S = 30.0


class Clock:
    """Time that passes while this process runs: when others keep it waiting for its core, it stands still.

    A machine that is busy with other things must not look like a silent server.
    """

    def __init__(self) -> None:
        self.now = 0.0

    async def run(self) -> None:
        before = trio.current_time()
        while True:
            await trio.sleep(TICK_S)
            now = trio.current_time()
            self.now += min(now - before, LONGEST_TICK_S)
            before = now


@dataclass(frozen=True, slots=True)
class Talk:
    """Who talks, and how much.

    Attributes:
        members: of all rooms, spread evenly over rooms and conn servers.
        pause_s: of a speaker, between an answer and the next message.
        important_every: one message of so many of a speaker is IMPORTANT.
        posts_every_s: of a back end at each conn server; 0: there is none.
    """

    members: int = 24
    rooms: int = 4
    pause_s: float = 0.1
    important_every: int = 5
    posts_every_s: float = 0.5


class Crowd:
    """The load of one cluster.  Made by `open_crowd`, and dead with it."""

    def __init__(self, cluster: Cluster, talk: Talk) -> None:
        self.ledger = Ledger()
        self.clock = Clock()
        self._cluster = cluster
        self._talk = talk
        self._hushed = trio.Event()
        self._unanswered = 0
        self._answered = trio.lowlevel.ParkingLot()

    @property
    def now(self) -> float:
        return self.clock.now

    def start(self, nursery: trio.Nursery) -> None:
        """Start everybody."""
        talk = self._talk
        nursery.start_soon(self.clock.run)
        for number in range(talk.members):
            nursery.start_soon(self._stay, number)
        if talk.posts_every_s:
            for server in range(len(self._cluster.conns)):
                nursery.start_soon(self._post, server)

    async def wait_in(self) -> None:
        """Wait until every member is in, or in again."""
        with trio.fail_after(IN_WITHIN_S):
            await until(lambda: len(self.ledger.present()) == self._talk.members)

    async def wait_resumed(self) -> float:
        """Wait until everybody has heard something that was said from now on; return how long it took."""
        began = self.now
        with trio.fail_after(IN_WITHIN_S):
            while True:
                heard_at = self.ledger.first_heard(began)
                if heard_at is not None:
                    return heard_at - began
                await trio.sleep(TICK_S)

    async def hush(self) -> None:
        """Let nobody begin anything any more, and wait for the answers that are under way."""
        self._hushed.set()
        with trio.fail_after(HUSHED_WITHIN_S):
            while self._unanswered:
                await self._answered.park()

    async def settle(self, within_s: float = SETTLED_WITHIN_S) -> list[Missing]:
        """Wait until everybody has what was said until now, `within_s` at most; return what is missing."""
        said_until = self.now
        end = trio.current_time() + within_s
        while True:
            missing = self.ledger.missing(until=said_until)
            if not missing or trio.current_time() > end:
                return missing
            await trio.sleep(5 * TICK_S)

    async def _stay(self, number: int) -> None:
        """Be a member, and come back whenever the connection ends."""
        layer, place = divmod(number, self._talk.rooms * len(self._cluster.conns))
        server, room = divmod(place, self._talk.rooms)
        name, version = f"member {number}", 1 - layer % 2
        while True:
            try:
                joining = self._cluster.join(name, f"room {room}", server=server, version=version)
                async with joining as client, trio.open_nursery() as nursery:
                    session = self.ledger.enters(name, client.room, server, self.now)
                    if not layer:
                        nursery.start_soon(self._speak, client)
                    try:
                        async for message in client.messages():
                            session.hears(int(message.data.strip(b'"').split()[0]), self.now)
                    finally:
                        session.left_at = self.now
                    nursery.cancel_scope.cancel()
            except ClientError:
                pass
            await trio.sleep(COME_BACK_AFTER_S)

    async def _speak(self, client: Client) -> None:
        """Say one thing after the other until hushed, or until the connection ends."""
        for count in itertools.count(1):
            if self._hushed.is_set():
                return
            level = Level(count % self._talk.important_every == 0)
            said = self.ledger.says(client.room, level, self.now)
            with self._under_way():
                try:
                    await client.publish(said.data, said.level)
                except PublishRefused as exc:
                    said.outcome = f"refused: {exc.code}"
                except ClientError as exc:
                    said.outcome = f"not known: {type(exc).__name__}"
                    return
                else:
                    self._accept(said)
            await trio.sleep(self._talk.pause_s)

    async def _post(self, server: int) -> None:
        """Be a back end until hushed."""
        url = f"http://{self._cluster.conns[server].clients}/msg"
        headers = {"Authorization": f"Bearer {token_of(f'back end {server}')}"}
        async with http_client(headers=headers, timeout=10) as http:
            for count in itertools.count(1):
                await trio.sleep(self._talk.posts_every_s)
                if self._hushed.is_set():
                    return
                said = self.ledger.says(f"room {count % self._talk.rooms}", Level.IMPORTANT, self.now)
                with self._under_way():
                    await self._post_one(http, url, said)

    async def _post_one(self, http: httpx2.AsyncClient, url: str, said: Said) -> None:
        try:
            answer = await http.post(url, data={"room_id": said.room, "msg": said.data.decode()})
        except httpx2.TransportError as exc:
            said.outcome = f"not known: {type(exc).__name__}"
        else:
            if answer.status_code == 200 and answer.json()["code"] == 1:
                self._accept(said)
            else:
                said.outcome = f"refused: {answer.status_code}"

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._unanswered += 1
        try:
            yield
        finally:
            self._unanswered -= 1
            self._answered.unpark_all()

    def _accept(self, said: Said) -> None:
        said.accepted_at, said.outcome = self.now, "accepted"


@asynccontextmanager
async def open_crowd(cluster: Cluster, talk: Talk) -> AsyncIterator[Crowd]:
    """Let a crowd come and talk; leaving sends everybody away."""
    crowd = Crowd(cluster, talk)
    async with trio.open_nursery() as nursery:
        crowd.start(nursery)
        await crowd.wait_in()
        yield crowd
        nursery.cancel_scope.cancel()
