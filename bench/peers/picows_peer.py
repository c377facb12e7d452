"""picows on uvloop: `python -m bench.peers.picows_peer PORT`."""

from __future__ import annotations

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench.chat import Chat


class Connection(WSListener):
    """One client."""

    def __init__(self, chat: Chat[WSTransport]) -> None:
        self._chat = chat

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        reply, broadcast = self._chat.receive(transport, frame.get_payload_as_bytes())
        if reply is not None:
            transport.send(WSMsgType.BINARY, reply)
        if broadcast is not None:
            for member in broadcast.members:
                member.send(WSMsgType.BINARY, broadcast.push)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._chat.leave(transport)


async def serve(port: int) -> None:
    chat: Chat[WSTransport] = Chat()

    def listener(_: WSUpgradeRequest) -> WSListener:
        return Connection(chat)

    server = await ws_create_server(listener, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
