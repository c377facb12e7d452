"""The stand-in's process: flags, listeners, signals, control port."""

from __future__ import annotations

import argparse
import json
import signal
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.fakes.nsqd.client import Client, Server
from tests.fakes.nsqd.store import Journal, Store

SCAN_S = 0.05


async def scan(store: Store) -> None:
    while True:
        await trio.sleep(SCAN_S)
        store.scan()


async def control(server: Server, stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        async for data in stream:
            for line in bytes(data).decode().split():
                answer = stats(server) if line == "stats" else fault(server, line)
                await stream.send_all(json.dumps(answer).encode() + b"\n")


def fault(server: Server, kind: str) -> dict[str, int]:
    clients = list(server.clients)
    for client in clients:
        {"rst": client.reset, "mid-frame": client.break_off, "half-open": client.freeze}[kind]()
    return {"clients": len(clients)}


def stats(server: Server) -> dict[str, Any]:
    store = server.store
    return {
        "clients": len(server.clients),
        "timeouts": store.timeouts,
        "too_late": server.too_late,
        "channels": store.stats(),
    }


async def serve(args: argparse.Namespace) -> None:
    tls = None
    if args.tls_cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.tls_cert)
    journal = Journal(args.data_path / "journal", write_through=args.mem_queue_size == 0)
    store = Store(journal, keeps_memory=args.mem_queue_size > 0)
    store.restore()
    server = Server(args, store, tls)

    async def client(stream: trio.SocketStream) -> None:
        await Client(server, stream).run()

    tcp = await trio.open_tcp_listeners(args.port, host="127.0.0.1")
    admin = await trio.open_tcp_listeners(args.control_port, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            nursery.start_soon(scan, store)
            nursery.start_soon(partial(trio.serve_listeners, client, tcp))
            nursery.start_soon(partial(trio.serve_listeners, partial(control, server), admin))
            ports = [listener.socket.getsockname()[1] for listener in (*tcp, *admin)]
            print("tcp {} control {}".format(*ports), flush=True)
            async for _ in signals:
                store.flush_to_disk()
                nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--data-path", type=Path, required=True)
    parser.add_argument("--mem-queue-size", type=int, default=10_000)
    parser.add_argument("--msg-timeout", type=float, default=60.0)
    parser.add_argument("--max-msg-size", type=int, default=1 << 20)
    parser.add_argument("--max-body-size", type=int, default=5 << 20)
    parser.add_argument("--min-output-buffer-timeout", type=int, default=25)
    parser.add_argument("--tls-cert", help="PEM with certificate and key")
    parser.add_argument("--auth-secret")
    trio.run(serve, parser.parse_args())


if __name__ == "__main__":
    main()
