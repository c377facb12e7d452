"""A WebSocket client by somebody else, as a program that does what it is told.

websocket_peer.py websockets|aiohttp|picows URL [CA]

Each line of its input is one step as JSON; what a step brings is printed as one line of JSON.

["binary", HEX]  ["text", TEXT]  ["parts", HEX, ...]  ["ping", HEX]    say something; aiohttp sends no parts
["hear"]                                                               the next message, in hex
["close", CODE, REASON]                                                the code that the server answers
["closed"]                                                             the server's code and reason
"""

import asyncio
import json
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

Steps = dict[str, Callable[..., Awaitable[object]]]


async def run(steps: Steps) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, *arguments = json.loads(line)
        result = await asyncio.wait_for(steps[name](*arguments), 10)
        if name in ("hear", "close", "closed", "ping"):
            print(json.dumps(result), flush=True)


async def run_websockets(url: str, context: ssl.SSLContext | None) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(url, ssl=context, max_size=None, compression="deflate", ping_interval=None) as peer:
        assert not peer.protocol.extensions, "compression was accepted"

        async def ping(payload: str) -> str:
            await (await peer.ping(bytes.fromhex(payload)))
            return payload

        async def hear() -> str:
            message = await peer.recv()
            assert isinstance(message, bytes), "text"
            return message.hex()

        async def close(code: int, reason: str) -> object:
            await peer.close(code, reason)
            return peer.protocol.close_rcvd and peer.protocol.close_rcvd.code

        async def closed() -> object:
            try:
                return await peer.recv()
            except ConnectionClosed as exc:
                return exc.rcvd and [exc.rcvd.code, exc.rcvd.reason]

        await run(
            {
                "binary": lambda data: peer.send(bytes.fromhex(data)),
                "text": peer.send,
                "parts": lambda *parts: peer.send(map(bytes.fromhex, parts)),
                "ping": ping,
                "hear": hear,
                "close": close,
                "closed": closed,
            }
        )


async def run_aiohttp(url: str, context: ssl.SSLContext | None) -> None:
    import aiohttp

    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            url, ssl=context or True, compress=15, max_msg_size=0, autoclose=False, autoping=False
        ) as peer,
    ):
        assert not peer.compress, "compression was accepted"

        async def ping(payload: str) -> str:
            await peer.ping(bytes.fromhex(payload))
            pong = await peer.receive()
            assert pong.type is aiohttp.WSMsgType.PONG, pong
            return bytes(pong.data).hex()

        async def hear() -> str:
            return (await peer.receive_bytes()).hex()

        async def close(code: int, reason: str) -> object:
            await peer.close(code=code, message=reason.encode())
            return peer.close_code

        async def closed() -> object:
            message = await peer.receive()
            return [message.data, message.extra]

        await run(
            {
                "binary": lambda data: peer.send_bytes(bytes.fromhex(data)),
                "text": peer.send_str,
                "ping": ping,
                "hear": hear,
                "close": close,
                "closed": closed,
            }
        )


async def run_picows(url: str, context: ssl.SSLContext | None) -> None:
    import picows
    from picows import WSFrame, WSMsgType, WSTransport

    heard: asyncio.Queue[tuple[WSMsgType, Any]] = asyncio.Queue()

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                heard.put_nowait(
                    (frame.msg_type, [int(frame.get_close_code().value), frame.get_close_reason()])
                )
                transport.disconnect()
            else:
                heard.put_nowait((frame.msg_type, frame.get_payload_as_bytes().hex()))

    peer, _ = await picows.ws_connect(Listener, url, ssl_context=context, enable_auto_pong=False)

    async def next_of(kind: WSMsgType) -> Any:
        found, content = await heard.get()
        assert found == kind, (found, content)
        return content

    async def say(kind: WSMsgType, data: bytes) -> None:
        peer.send(kind, data)

    async def parts(*pieces: str) -> None:
        for number, piece in enumerate(pieces):
            kind = WSMsgType.CONTINUATION if number else WSMsgType.BINARY
            peer.send(kind, bytes.fromhex(piece), fin=number == len(pieces) - 1)

    async def ping(payload: str) -> str:
        peer.send_ping(bytes.fromhex(payload))
        return str(await next_of(WSMsgType.PONG))

    async def close(code: int, reason: str) -> object:
        peer.send_close(picows.WSCloseCode(code), reason.encode())
        return (await next_of(WSMsgType.CLOSE))[0]

    await run(
        {
            "binary": lambda data: say(WSMsgType.BINARY, bytes.fromhex(data)),
            "text": lambda text: say(WSMsgType.TEXT, text.encode()),
            "parts": parts,
            "ping": ping,
            "hear": lambda: next_of(WSMsgType.BINARY),
            "close": close,
            "closed": lambda: next_of(WSMsgType.CLOSE),
        }
    )
    peer.disconnect()


if __name__ == "__main__":
    library, url, *ca = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca[0]) if ca else None
    asyncio.run(
        {"websockets": run_websockets, "aiohttp": run_aiohttp, "picows": run_picows}[library](url, context)
    )
