"""Names that the services agree on: service keys, the topic and channel, partitions, rooms."""

from __future__ import annotations

import re
from typing import Final
from zlib import crc32

TOPIC: Final = "chat_room"
CHANNEL: Final = "room_job"
CONN_SERVICE: Final = "room_conn"
LOGIC_SERVICE: Final = "room_logic"
JOB_SERVICE: Final = "room_job"

MAX_ROOM_BYTES: Final = 128
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_QUEUE_NAME: Final = re.compile(r"(?=.{1,64}\Z)[.a-zA-Z0-9_-]+(#ephemeral)?\Z")


def service_key(service: str, address: str) -> str:
    """Return the etcd key under which `address` ("host:port") of `service` is announced."""
    return f"/{service}/{address}"


def partition(room: str, partitions: int) -> int:
    """Return the partition of `room`: 0 <= partition < `partitions`."""
    return crc32(room.encode()) % partitions


def topic_of(topic: str, number: int, partitions: int) -> str:
    """Return the queue topic of a partition: the bare name as long as there is only one."""
    return topic if partitions == 1 else f"{topic}.{number}"


def queue_name_problem(name: str) -> str | None:
    """Say why `name` cannot be a topic or a channel of NSQ, or return None if it can."""
    if _QUEUE_NAME.match(name):
        return None
    return f"not 1 to 64 of letters, digits, '.', '_', '-' (and #ephemeral): {name!r}"


def room_problem(room: str) -> str | None:
    """Say why `room` is no room name, or return None if it is one.

    A room name is 1 to 128 bytes of UTF-8 without control characters (C0, DEL, C1).
    """
    if not room:
        return "room name is empty"
    try:
        size = len(room.encode())
    except UnicodeEncodeError:
        return "room name is not UTF-8"
    if size > MAX_ROOM_BYTES:
        return f"room name is over {MAX_ROOM_BYTES} bytes"
    if _CONTROL.search(room):
        return "room name has control characters"
    return None
