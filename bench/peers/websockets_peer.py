"""The websockets library on uvloop, no compression: `python -m bench.peers.websockets_peer PORT`."""

from __future__ import annotations

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve as serve_websockets

from bench.chat import Chat


class Peer:
    """The server."""

    def __init__(self) -> None:
        self._chat: Chat[ServerConnection] = Chat()

    async def handle(self, connection: ServerConnection) -> None:
        try:
            async for payload in connection:
                if isinstance(payload, str):
                    continue
                reply, push = self._chat.receive(connection, payload)
                if reply is not None:
                    await connection.send(reply)
                if push is not None:
                    broadcast(push.members, push.push)
        finally:
            self._chat.leave(connection)

    async def serve(self, port: int) -> None:
        async with serve_websockets(
            self.handle, "127.0.0.1", port, compression=None, ping_interval=None, backlog=4096
        ) as server:
            await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(Peer().serve(int(sys.argv[1])))
