"""C-core gRPC as a conn server: calls a logic server's methods and prints as JSON what it has seen.

python grpcio_client.py HOST:PORT GOOD_TOKEN
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc

from schema.proto.conn_pb2 import BroadcastRoomReply, BroadcastRoomReq
from schema.proto.logic_pb2 import AuthReply, AuthReq, LinkReply, LinkRequest


def failure(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except grpc.RpcError as error:
        return [str(error.code().name), str(error.details())]
    return []


def talk(link: Any, token: str) -> dict[str, Any]:
    """Ask over one link, and read until all is answered."""
    requests: SimpleQueue[LinkRequest | None] = SimpleQueue()
    replies = link(iter(requests.get, None), timeout=10)
    window = next(replies).window
    for first in range(1, 301, 100):
        frame = LinkRequest()
        for number in range(first, first + 100):
            body = BroadcastRoomReq(roomID="lobby", data=b"%d" % number, origin=7, origin_seq=number)
            frame.publishes.add(id=number, body=body.SerializeToString())
        requests.put(frame)
    sign_ins = LinkRequest()
    sign_ins.sign_ins.add(id=301, token=token)
    sign_ins.sign_ins.add(id=302, token="nonsense")
    requests.put(sign_ins)
    stored: list[int] = []
    granted: list[str] = []
    not_done: list[int] = []
    while len(stored) + len(granted) + len(not_done) < 302:
        reply = next(replies)
        stored += reply.stored
        granted += [each.grant.nickname for each in reply.granted]
        not_done += [each.code for each in reply.not_done]
    requests.put(None)
    rest = list(replies)
    return {
        "window": [window.items > 0, window.bytes > 0],
        "stored": stored == [*range(1, 301)],
        "granted": granted,
        "not done": not_done,
        "rest": len(rest),
        "status": replies.code().name,
    }


def main(address: str, token: str) -> dict[str, Any]:
    with grpc.insecure_channel(address) as channel:
        path = "/logic.Logic/"
        auth = channel.unary_unary(path + "Auth", AuthReq.SerializeToString, AuthReply.FromString)
        push = channel.unary_unary(
            path + "PushMsg", BroadcastRoomReq.SerializeToString, BroadcastRoomReply.FromString
        )
        link = channel.stream_stream(path + "Link", LinkRequest.SerializeToString, LinkReply.FromString)
        forged = BroadcastRoomReq(roomID="lobby", data=b"unary", origin=9, origin_seq=9, sender="root")
        return {
            "auth": auth(AuthReq(token=token), timeout=5).nickname,
            "refused": failure(lambda: auth(AuthReq(token="nonsense"), timeout=5)),
            "push": push(forged, timeout=5).ByteSize(),
            "empty push": failure(lambda: push(BroadcastRoomReq(roomID="lobby"), timeout=5)),
            "link": talk(link, token),
        }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])), flush=True)
