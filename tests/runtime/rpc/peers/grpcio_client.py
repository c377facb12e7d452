"""C-core gRPC as a client: calls `probe.Probe` at an address and prints what it saw, as JSON.

python grpcio_client.py ADDRESS [CA CERTIFICATE KEY]
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from tests.runtime.rpc.probe_pb2 import Answer, Ask

MIB = 1 << 20


def open_channel(address: str, files: list[str]) -> Any:
    options = [("grpc.max_receive_message_length", 16 * MIB), ("grpc.ssl_target_name_override", "localhost")]
    if not files:
        return grpc.insecure_channel(address, options)
    ca, certificate, key = (Path(name).read_bytes() for name in files)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options)


def status_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def main(address: str, files: list[str]) -> dict[str, Any]:
    with open_channel(address, files) as channel:
        path = "/probe.Probe/"
        encode, decode = Ask.SerializeToString, Answer.FromString
        echo = channel.unary_unary(path + "Echo", encode, decode)
        down = channel.unary_stream(path + "Down", encode, decode)
        up = channel.stream_unary(path + "Up", encode, decode)
        chat = channel.stream_stream(path + "Chat", encode, decode)
        nothing = channel.unary_unary(path + "Nothing", encode, decode)
        seen: dict[str, Any] = {
            "echo": echo(Ask(id=5, body=b"q"), timeout=5).id,
            "3 MB": len(echo(Ask(body=b"x" * (3 * MIB)), timeout=10).body),
            "5 MB": status_of(lambda: echo(Ask(body=b"x" * (5 * MIB)), timeout=10)),
            "down": [answer.id for answer in down(Ask(count=300, body=b"z" * 1000), timeout=5)]
            == [*range(300)],
            "up": up(iter([Ask(body=b"12")] * 200), timeout=5).id,
            "chat": [answer.id for answer in chat(iter([Ask(id=n) for n in range(200)]))] == [*range(200)],
            "refuse": status_of(lambda: echo(Ask(wish="refuse"), timeout=5)),
            "fail": status_of(lambda: echo(Ask(wish="fail"), timeout=5)),
            "unknown method": status_of(lambda: nothing(Ask(), timeout=5)),
            "deadline": status_of(lambda: echo(Ask(id=1, sleep_s=30), timeout=0.2)),
        }
        future = echo.future(Ask(id=2, sleep_s=30), timeout=20)
        time.sleep(0.1)
        future.cancel()
        seen["cancel"] = future.cancelled()
        try:
            echo(Ask(wish="refuse"))
        except grpc.RpcError as error:
            seen["text"] = error.details()
        calls = [threading.Thread(target=lambda: echo(Ask(id=1), timeout=5)) for _ in range(20)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])), flush=True)
