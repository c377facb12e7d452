"""C-core gRPC as a Go job worker: pushes to a conn server, and prints as JSON what it was answered.

python go_job.py HOST:PORT
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc

from schema.proto.conn_pb2 import BroadcastRoomReply, BroadcastRoomReq


def main(address: str) -> list[Any]:
    answers: list[Any] = []
    with grpc.insecure_channel(address) as channel:
        broadcast = channel.unary_unary(
            "/conn.Conn/BroadcastRoom", BroadcastRoomReq.SerializeToString, BroadcastRoomReply.FromString
        )
        for request in (
            BroadcastRoomReq(roomID="lobby", data=b"\x01\x00\x00\x00x"),
            BroadcastRoomReq(roomID="lobby", data=b"x" * 3_000_000),
            BroadcastRoomReq(roomID="lobby"),
            BroadcastRoomReq(data=b"x"),
        ):
            try:
                answers.append(broadcast(request, timeout=5).ByteSize())
            except grpc.RpcError as error:
                answers.append([error.code().name, error.details()])
    return answers


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])), flush=True)
