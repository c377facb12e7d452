"""Which nsqd gets which topic, and which connection may bring how much.  Pure.

Every process must come to the same answer from the same addresses: two logic servers that publish one
topic to two nsqds have no common order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b


def choose(topic: str, addresses: Iterable[str]) -> str | None:
    """Return the address for `topic` by rendezvous hashing; None of no addresses.

    An address that goes away moves only its own topics.
    """
    return max(addresses, default=None, key=lambda address: (_weight(topic, address), address))


def _weight(topic: str, address: str) -> bytes:
    return blake2b(f"{address} {topic}".encode(), digest_size=8).digest()


def shares(total: int, limits: Sequence[int], turn: int = 0) -> list[int]:
    """Distribute `total` deliveries over connections, none over its limit.

    With fewer than one for each, `turn` says where to begin: counted up, all get their turn.
    """
    if not limits:
        return []
    each, rest = divmod(total, len(limits))
    count = len(limits)
    return [min(each + ((i - turn) % count < rest), limit) for i, limit in enumerate(limits)]
