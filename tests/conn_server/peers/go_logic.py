"""C-core gRPC as a Go logic server: Auth and PushMsg, no Link, nothing of what was added later.

python go_logic.py PORT     prints the port, then each message that it has stored, as JSON; ends with stdin
"""

from __future__ import annotations

import json
import sys
from concurrent import futures
from typing import Any

import grpc

from schema.proto.conn_pb2 import BroadcastRoomReply, BroadcastRoomReq
from schema.proto.logic_pb2 import AuthReply, AuthReq


def auth(request: AuthReq, context: Any) -> AuthReply:
    if not request.token.isdecimal():
        context.abort(grpc.StatusCode.UNKNOWN, "登录信息过期")
    return AuthReply(uid=int(request.token), nickname=request.token)


def push_msg(request: BroadcastRoomReq, context: Any) -> BroadcastRoomReply:
    if not request.roomID or not request.data:
        context.abort(grpc.StatusCode.UNKNOWN, "缺少roomID或data参数")
    if request.data == b"no queue":
        context.abort(grpc.StatusCode.UNKNOWN, "nsq: not connected")
    stored = [request.roomID, request.msgLv, request.data.decode(), request.origin_seq, request.sender]
    print(json.dumps(stored), flush=True)
    return BroadcastRoomReply()


def main(port: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(16))
    methods = {
        "Auth": grpc.unary_unary_rpc_method_handler(auth, AuthReq.FromString, AuthReply.SerializeToString),
        "PushMsg": grpc.unary_unary_rpc_method_handler(
            push_msg, BroadcastRoomReq.FromString, BroadcastRoomReply.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("logic.Logic", methods),))
    print(server.add_insecure_port(f"127.0.0.1:{port}"), flush=True)
    server.start()
    sys.stdin.readline()
    server.stop(None).wait(5)


if __name__ == "__main__":
    main(sys.argv[1])
