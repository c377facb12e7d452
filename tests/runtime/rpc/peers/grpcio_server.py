"""C-core gRPC as a server of `probe.Probe`: prints its port, stops at once when a line comes in.

python grpcio_server.py [CA CERTIFICATE KEY]     with files: mTLS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from tests.runtime.rpc.probe_pb2 import Answer, Ask


def fulfil(ask: Ask, context: Any) -> None:
    if ask.wish == "refuse":
        context.abort(grpc.StatusCode.NOT_FOUND, "没有")
    if ask.wish == "fail":
        raise ValueError("a bug")
    until = time.monotonic() + ask.sleep_s
    while context.is_active() and time.monotonic() < until:
        time.sleep(0.01)
    if not context.is_active():
        print("cancelled", flush=True)


def echo(ask: Ask, context: Any) -> Answer:
    fulfil(ask, context)
    return Answer(id=ask.id, body=ask.body)


def down(ask: Ask, context: Any) -> Iterator[Answer]:
    for number in range(ask.count):
        yield Answer(id=number, body=ask.body)
    fulfil(ask, context)


def up(asks: Iterator[Ask], _: Any) -> Answer:
    return Answer(id=sum(len(ask.body) for ask in asks))


def chat(asks: Iterator[Ask], context: Any) -> Iterator[Answer]:
    for ask in asks:
        fulfil(ask, context)
        yield Answer(id=ask.id, body=ask.body)


def main(files: list[str]) -> None:
    codec = (Ask.FromString, Answer.SerializeToString)
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo, *codec),
        "Down": grpc.unary_stream_rpc_method_handler(down, *codec),
        "Up": grpc.stream_unary_rpc_method_handler(up, *codec),
        "Chat": grpc.stream_stream_rpc_method_handler(chat, *codec),
    }
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("probe.Probe", methods),))
    if files:
        ca, certificate, key = (Path(name).read_bytes() for name in files)
        credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.readline()
    server.stop(None).wait(5)


if __name__ == "__main__":
    main(sys.argv[1:])
