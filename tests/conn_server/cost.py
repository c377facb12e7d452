"""What a publish and a sign-in cost over `Link`: CPU us of conn server and logic server together.

Both run in this one process, over loopback, rules and body encodings included; the queue stores after a
millisecond.  The best of a few rounds, because other programs want the machine as well.

python -m tests.conn_server.cost
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from conn_server.links import LogicLinks, LogicOptions
from conn_server.origin import Origin
from conn_server.rpc import open_logic
from logic_server.logic import make_logic
from logic_server.rpc import LogicService
from logic_server.settings import LogicSettings
from runtime.discovery.static import StaticPeers
from runtime.rpc.server import serve_rpc
from schema.message import Level
from schema.tokens import TokenAuthority

KEY = b"a secret of thirty-two bytes, yes"
BODY, ROOMS, ASKS, ROUNDS = b"x" * 100, 50, 20_000, 4


class SlowProducer:
    """Stores after a millisecond; counts."""

    def __init__(self) -> None:
        self.calls = 0

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        self.calls += 1
        await trio.sleep(0.001)


async def measure(
    name: str, links: LogicLinks, senders: int, ask: Callable[[int], Awaitable[object]]
) -> None:
    async def send(sender: int) -> None:
        for _ in range(asks // senders):
            await ask(sender)

    asks = ASKS if senders > 1 else ASKS // 20
    best = (float("inf"), 0.0, 0.0)
    for _ in range(ROUNDS):
        frames, wall, cpu = links.statistics().frames, time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for sender in range(senders):
                nursery.start_soon(send, sender)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        frames = links.statistics().frames - frames
        best = min(best, (cpu / asks * 1e6, asks / wall, asks / frames))
    print(  # noqa: T201  its output is the point
        f"{name}, {senders:4d} at a time {best[0]:8.1f} us CPU {best[1]:8.0f} /s {best[2]:8.1f} per frame"
    )


async def main() -> None:
    tokens = TokenAuthority(KEY)
    logic = make_logic(LogicSettings(), tokens, SlowProducer(), unix_now=time.time)
    origin = Origin(7, time.time)
    token = tokens.issue("42", time.time())
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_rpc, [LogicService(logic)], "127.0.0.1:0"))
        async with open_logic(StaticPeers(frozenset(server.addresses)), LogicOptions()) as links:

            async def publish(sender: int) -> None:
                await links.publish(origin.stamp(f"room {sender % ROOMS}", Level.NORMAL, BODY, "42"))

            async def sign_in(_: int) -> None:
                await links.authenticate(token)

            for senders in (1, 10, 50, 200, 1000):
                await measure("publish", links, senders, publish)
            for senders in (1, 50, 1000):
                await measure("sign-in", links, senders, sign_in)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
