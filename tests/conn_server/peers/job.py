"""C-core gRPC as a job worker of ours: delivers over one stream, and prints as JSON what it was answered.

python job.py HOST:PORT
"""

from __future__ import annotations

import json
import sys
from queue import SimpleQueue
from typing import Any

import grpc

from schema.batch import pack
from schema.proto.conn_pb2 import BroadcastRoomReq, DeliverReply, DeliverRequest


def main(address: str) -> dict[str, Any]:
    requests: SimpleQueue[DeliverRequest | None] = SimpleQueue()
    with grpc.insecure_channel(address) as channel:
        deliver = channel.stream_stream(
            "/conn.Conn/Deliver", DeliverRequest.SerializeToString, DeliverReply.FromString
        )
        replies = deliver(iter(requests.get, None), timeout=10)
        is_open = next(replies).open
        for first in range(1, 301, 50):
            request = DeliverRequest()
            for number in range(first, first + 50):
                push = BroadcastRoomReq(roomID="lobby", data=pack([b"%d" % number]))
                request.batches.add(number=number, push=push.SerializeToString())
            requests.put(request)
        last = DeliverRequest()
        last.batches.add(number=301, push=b"nonsense")
        requests.put(last)
        taken: list[int] = []
        refused: list[int] = []
        while len(taken) + len(refused) < 301:
            reply = next(replies)
            taken += reply.taken
            refused += [each.number for each in reply.refused]
        requests.put(None)
        assert not list(replies)
        return {"open": is_open, "taken": len(taken), "refused": refused, "status": replies.code().name}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])), flush=True)
