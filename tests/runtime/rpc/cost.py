"""What calls cost: CPU us of both ends together, in this one process, over loopback.

python -m tests.runtime.rpc.cost
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio

from tests.runtime.rpc.probe import Probe, probing
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Ask

BODY = b"x" * 100
UNARY, CONCURRENT, STREAMED, TURNS = 3000, 64, 20_000, 3000


async def measure(name: str, count: int, run: Callable[[], Awaitable[None]]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    await run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(  # noqa: T201  its output is the point
        f"{name:28s} {cpu / count * 1e6:8.1f} us CPU  {count / wall:9.0f} /s"
    )


async def main() -> None:
    async with probing(service=Probe()) as (_, _, channel):
        stub = ProbeStub(channel)

        async def unary(count: int = UNARY // CONCURRENT) -> None:
            for _ in range(count):
                await stub.Echo(Ask(id=1, body=BODY), timeout=10)

        async def concurrent() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(CONCURRENT):
                    nursery.start_soon(unary)

        async def down() -> None:
            async with stub.Down.open() as stream:
                await stream.send_message(Ask(count=STREAMED, body=BODY))
                assert len([answer.id async for answer in stream]) == STREAMED

        async def up() -> None:
            async with stub.Up.open() as stream:
                for _ in range(STREAMED):
                    await stream.send_message(Ask(id=1, body=BODY))
                await stream.end()
                await stream.recv_message()

        async def turns() -> None:
            async with stub.Chat.open() as stream:
                for number in range(TURNS):
                    await stream.send_message(Ask(id=number, body=BODY))
                    await stream.recv_message()

        await unary(300)
        await measure("unary, one at a time", UNARY, lambda: unary(UNARY))
        await measure(f"unary, {CONCURRENT} at a time", UNARY, concurrent)
        await measure("streamed to the client", STREAMED, down)
        await measure("streamed to the server", STREAMED, up)
        await measure("turn of a bidirectional call", TURNS, turns)


if __name__ == "__main__":
    trio.run(main)
