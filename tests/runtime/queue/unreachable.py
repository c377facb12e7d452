"""Settings of both services at the queue with which nothing could be reached, and what is said of them."""

from __future__ import annotations

UNREACHABLE: list[tuple[dict[str, object], str]] = [
    ({"nsq.addr": []}, "nsq.addr: needs one nsqd at least"),
    ({"nsq.addr": ["127.0.0.1:0"]}, "nsq.addr: expected an address with a host and a port"),
    ({"nsq.addr": ["a..b:4150"]}, "nsq.addr: expected an address such as"),
    ({"etcd.addrs": ["a..b:2379"]}, "etcd.addrs: expected an address such as"),
    ({"srv.listenAddr": "a..b:6001"}, "srv.listenAddr: expected an address such as"),
    ({"nsq.topic": "a b"}, "nsq.topic: not 1 to 64 of letters"),
    ({"nsq.topic": "x" * 63, "nsq.partitions": 11}, "nsq.topic: not 1 to 64 of letters"),
    ({"nsq.topic": "t#ephemeral", "nsq.partitions": 2}, "nsq.topic: not 1 to 64 of letters"),
]
