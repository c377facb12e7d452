"""Talk in rooms: `fanout`, `ingest` and `push` differ in who speaks, and in what counts as a unit.

fanout  one speaker for each room of many listeners; unit: a push that a member got
ingest  everybody speaks; unit: a message that was accepted
push    back ends speak by `POST /msg`; unit: a message that was accepted

counts  connections, units; those of deliveries.py and speaker.py; stalled: members that stopped reading;
        evicted: of them, those that the server has closed
spans   latency_normal, latency_important: due -> push, at each member; ack, own (speaker.py); lateness; open
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic_ns
from typing import ClassVar, Final

from bench.deliveries import Deliveries
from bench.engine import Engine
from bench.opening import close_all, numbers_of, open_all
from bench.pacing import Actor, OpenLoop, everybody_once
from bench.plan import Window
from bench.poller import Pace, no_pace
from bench.poster import Poster
from bench.schedule import NS, share
from bench.speaker import Listener, Speaker, Speaking, Stalled
from bench.user import State

_QUIET_NS: Final = 1_500_000_000  # longer than a batch waits to be merged
_CONNECT_NS: Final = 5 * NS
_LAST_WORDS_NS: Final = 2 * NS  # for what a server's kernel still has for who did not read


class Talk:
    """Rooms with members, and somebody who speaks in them."""

    unit: ClassVar[str] = "accepted"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._deliveries = Deliveries(engine)
        self._speaking = Speaking(engine)
        self._speaking.settled = self._go_on
        self._users = [self._member(number) for number in numbers_of(engine)]
        self._stalled = [self._stalled_member(number) for number in stalled_of(engine)]
        self._posters: list[Poster] = []

    async def prepare(self) -> None:
        await open_all(self._engine, self._users)
        self._engine.counts["connections"] = self._engine.signed_in
        await open_all(self._engine, self._stalled)
        if self._engine.plan.load.via == "post":
            await self._open_posters()

    async def run(self, window: Window) -> None:
        engine, load = self._engine, self._engine.plan.load
        self._deliveries.window = self._speaking.window = window
        actors: Sequence[Actor] = self._posters or [u for u in self._users if isinstance(u, Speaker)]
        pace: Pace
        if load.rate is not None:
            part = load.rate * len(actors) / max(1, self._speakers())
            pace = OpenLoop(engine, actors, part, window.start_ns).pace if actors else no_pace
        else:
            pace = everybody_once(actors)
        await engine.measure(pace, window, self._is_drained)
        await self._look_at_stalled()
        engine.counts.update(self._deliveries.counts())
        engine.counts.update(self._speaking.counts())
        engine.counts["units"] = engine.counts[self.unit]

    async def finish(self) -> None:
        for poster in self._posters:
            poster.finish()
        for user in self._stalled:
            user.socket.abort()
        await close_all(self._engine, self._users)

    def progress(self) -> int:
        return self._deliveries.frames if self.unit == "frames" else self._speaking.accepted

    def _member(self, number: int) -> Listener:
        room = self._engine.room(number % self._engine.plan.load.rooms)
        if self._speaks(number):
            return Speaker(self._engine, number, room, self._deliveries, self._speaking)
        return Listener(self._engine, number, room, self._deliveries)

    def _stalled_member(self, number: int) -> Stalled:
        load = self._engine.plan.load
        return Stalled(self._engine, load.connections + number, self._engine.room(number % load.rooms))

    def _speaks(self, number: int) -> bool:
        load = self._engine.plan.load
        return load.via == "websocket" and number < load.connections

    def _speakers(self) -> int:
        """Return how many speak in all processes."""
        load = self._engine.plan.load
        return load.senders if load.via == "post" else load.connections

    async def _open_posters(self) -> None:
        engine = self._engine
        plan = engine.plan
        numbers = share(plan.load.senders, plan.process, plan.processes)
        self._posters = [Poster(engine, number, self._speaking) for number in numbers]
        for poster in self._posters:
            poster.connect()
        until = monotonic_ns() + _CONNECT_NS
        await engine.poller.drive(no_pace, until, lambda: not any(p.is_connecting for p in self._posters))

    def _go_on(self, speaker: Speaker) -> None:
        if self._engine.plan.load.rate is None:
            now = monotonic_ns()
            if now < self._speaking.window.end_ns and speaker.can_act():
                speaker.act(now)

    async def _look_at_stalled(self) -> None:
        """See whom the server has closed: what it said last is behind what they have not read."""
        for user in self._stalled:
            user.socket.read_again()
        if self._stalled:
            await self._engine.poller.drive(
                no_pace, monotonic_ns() + _LAST_WORDS_NS, self._has_nobody_stalled
            )

    def _has_nobody_stalled(self) -> bool:
        return not any(user.state is State.SIGNED_IN for user in self._stalled)

    def _is_drained(self) -> bool:
        """Whether all is answered and has arrived; what others have sent can only be waited for."""
        plan, speaking = self._engine.plan, self._speaking
        if speaking.engine.unanswered:
            return False
        if plan.processes == 1 and self._deliveries.unique >= speaking.expected:
            return True
        return monotonic_ns() - max(self._deliveries.last_ns, speaking.window.end_ns) > _QUIET_NS


def stalled_of(engine: Engine) -> range:
    """Return which of the members that stop reading live in this process."""
    plan = engine.plan
    return share(plan.load.rooms * plan.load.stalled, plan.process, plan.processes)


class Fanout(Talk):
    """Large rooms with one speaker each."""

    unit = "frames"

    def _speaks(self, number: int) -> bool:
        load = self._engine.plan.load
        return load.via == "websocket" and number < load.rooms

    def _speakers(self) -> int:
        load = self._engine.plan.load
        return load.senders if load.via == "post" else load.rooms


class Ingest(Talk):
    """Everybody speaks."""


class Push(Talk):
    """Back ends speak; the command line sets `via` to post."""
