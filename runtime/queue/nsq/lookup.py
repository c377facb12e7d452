"""Ask nsqlookupd which nsqds have a topic."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import httpx2
import msgspec
import structlog
import trio
from structlog.typing import FilteringBoundLogger

from runtime.asking import AnswerTooLarge, open_answer, read_whole
from runtime.units import format_address, split_peer

_log: Final[FilteringBoundLogger] = structlog.get_logger("nsq")
_QUESTION_DEADLINE_S: Final = 3.0
_UNKNOWN_TOPIC: Final = 404
# Some thousand nsqds, with the metadata of each.
_MAX_ANSWER_BYTES: Final = 1 << 20
_UNUSABLE: Final = (
    *(httpx2.HTTPError, httpx2.InvalidURL, UnicodeError),  # the last two: a host that is none
    *(AnswerTooLarge, msgspec.MsgspecError, trio.TooSlowError),
)


class _Node(msgspec.Struct):
    broadcast_address: str
    tcp_port: int


class _Answer(msgspec.Struct):
    producers: list[_Node] = []


class Lookup:
    """What nsqlookupd says about one topic.  Its owner runs `run`, and it dies with that.

    Attributes:
        failures: questions without a usable answer, by what went wrong; `bad-address` counts nsqds in
            an answer that nobody could connect to.
    """

    def __init__(self, lookupd: Sequence[str], topic: str, interval_s: float) -> None:
        self.failures: Counter[str] = Counter()
        self._urls = [url if "://" in url else f"http://{url}" for url in lookupd]
        self._topic = topic
        self._interval_s = interval_s
        self._silent: set[str] = set()  # already reported

    async def run(self, on_found: Callable[[frozenset[str], bool], None]) -> None:
        """Ask at once and then every `interval_s`, until cancelled.

        `on_found` is told the addresses, and whether all have answered: only then is an address that
        is missing really gone.  Dead lookupds are counted and asked again.
        """
        async with httpx2.AsyncClient(trust_env=False, timeout=None) as client:
            while True:
                answers = [await self._ask(client, url) for url in self._urls]
                found = frozenset[str]().union(*(answer for answer in answers if answer is not None))
                on_found(found, None not in answers)
                await trio.sleep(self._interval_s * random.uniform(0.9, 1.1))  # noqa: S311  jitter

    async def _ask(self, client: httpx2.AsyncClient, url: str) -> frozenset[str] | None:
        try:
            with trio.fail_after(_QUESTION_DEADLINE_S):
                request = client.build_request("GET", f"{url}/lookup", params={"topic": self._topic})
                async with open_answer(client, request, _QUESTION_DEADLINE_S) as (response, pieces):
                    if response.status_code == _UNKNOWN_TOPIC:
                        return frozenset()  # nobody has published to it yet
                    response.raise_for_status()
                    answer = msgspec.json.decode(await read_whole(pieces, _MAX_ANSWER_BYTES), type=_Answer)
        except _UNUSABLE as exc:
            self.failures[type(exc).__name__] += 1
            if url not in self._silent:
                _log.warning("nsqlookupd gives no answer", url=url, reason=repr(exc))
                self._silent.add(url)
            return None
        self._silent.discard(url)
        addresses = (format_address(node.broadcast_address, node.tcp_port) for node in answer.producers)
        return frozenset(address for address in addresses if self._is_usable(address))

    def _is_usable(self, address: str) -> bool:
        """Say whether it is an address at all: what others have registered must not end the consumer."""
        try:
            split_peer(address)
        except ValueError:
            self.failures["bad-address"] += 1
            return False
        return True
