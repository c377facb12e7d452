"""trio-websocket as it comes: `python -m bench.peers.trio_websocket_peer PORT`.

Each connection has a writer task behind a bounded channel, as its API asks for: sending waits.
"""

from __future__ import annotations

import sys
from functools import partial

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from bench.chat import Chat

WAITING = 64
"""Pushes that wait for one member; what comes when it is full is dropped."""

Member = trio.MemorySendChannel[bytes]


class Peer:
    """The server."""

    def __init__(self) -> None:
        self._chat: Chat[Member] = Chat()

    async def handle(self, request: WebSocketRequest) -> None:
        connection = await request.accept()
        member, pushes = trio.open_memory_channel[bytes](WAITING)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, connection, pushes)
                await self._read(connection, member)
                nursery.cancel_scope.cancel()
        finally:
            self._chat.leave(member)

    async def _read(self, connection: WebSocketConnection, member: Member) -> None:
        while True:
            try:
                payload = await connection.get_message()
                if isinstance(payload, str):
                    continue
                reply, broadcast = self._chat.receive(member, payload)
                if reply is not None:
                    await connection.send_message(reply)
            except ConnectionClosed:
                return
            if broadcast is not None:
                for listener in broadcast.members:
                    try:
                        listener.send_nowait(broadcast.push)
                    except trio.WouldBlock:
                        continue

    async def _write(self, connection: WebSocketConnection, pushes: trio.MemoryReceiveChannel[bytes]) -> None:
        async for push in pushes:
            try:
                await connection.send_message(push)
            except ConnectionClosed:
                return


async def serve(port: int) -> None:
    await serve_websocket(Peer().handle, "127.0.0.1", port, None)


if __name__ == "__main__":
    trio.run(partial(serve, int(sys.argv[1])))
