"""What the members of rooms hear: each push is decoded once for all who get it, and checked for each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from bench.engine import Engine
from bench.plan import Window
from bench.sequence import Faults, Stamp, Tracker, read_stamp
from clients.python.frames import decode_reply
from schema.batch import BatchError, unpack
from schema.message import Level, Malformed, Push

PUSH_MARK: Final = b"\x08\x03"
"""How a push begins: a Reply of type MESSAGE."""

_CACHED: Final = 2048


@dataclass(frozen=True, slots=True)
class Heard:
    """One push, decoded: its level, and the messages of this run with their places in the room."""

    level: Level
    records: tuple[tuple[Stamp, int], ...]


class Deliveries:
    """Decodes and counts the pushes of one generator process.

    The last few thousand pushes are remembered by their bytes, which are the same for all members of a room:
    in two generations, of which the older is dropped.

    Attributes:
        frames: pushes that came in the measured time.
        unique: messages that came for the first time, ramp and drain included.
        last_ns: when the last push came.
    """

    def __init__(self, engine: Engine) -> None:
        self._run = engine.plan.run & 0xFFFFFFFF
        self._latency = {
            Level.NORMAL: engine.span("latency_normal"),
            Level.IMPORTANT: engine.span("latency_important"),
        }
        self._problems = engine.problems
        self._recent: dict[bytes, Heard] = {}
        self._older: dict[bytes, Heard] = {}
        self._places: Counter[str] = Counter()
        self.window = Window(0, 0, 0)
        self.faults = Faults()
        self.frames = 0
        self.unique = 0
        self.last_ns = 0

    def tracker(self) -> Tracker:
        """Return the view of one more member."""
        return Tracker(self.faults)

    def take(self, tracker: Tracker, payload: bytes, now: int) -> Heard:
        """Note that a member has got a push."""
        heard = self._recent.get(payload) or self._decoded(payload)
        window = self.window
        if window.open_ns <= now < window.end_ns:
            self.frames += 1
        latency = self._latency[heard.level]
        for stamp, place in heard.records:
            if tracker.saw(stamp, place):
                self.unique += 1
                if window.open_ns <= stamp.due_ns < window.end_ns:
                    latency.record(now - stamp.due_ns)
        self.last_ns = now
        return heard

    def counts(self) -> dict[str, int]:
        """Return what goes into the outcome."""
        return {
            "frames": self.frames,
            "unique": self.unique,
            "late": self.faults.late,
            "duplicates": self.faults.duplicates,
            "disordered": self.faults.disordered,
        }

    def _decoded(self, payload: bytes) -> Heard:
        heard = self._older.get(payload) or self._decode(payload)
        if len(self._recent) >= _CACHED:
            self._older, self._recent = self._recent, {}
        self._recent[payload] = heard
        return heard

    def _decode(self, payload: bytes) -> Heard:
        try:
            push = Push.decode(decode_reply(payload).data)
            stamps = [read_stamp(record) for record in unpack(push.body)]
        except (Malformed, BatchError) as exc:
            self._problems[f"push not understood: {exc}"] += 1
            return Heard(Level.NORMAL, ())
        records = []
        for stamp in stamps:
            if stamp is not None and stamp.run == self._run:
                self._places[push.room] += 1
                records.append((stamp, self._places[push.room]))
        return Heard(push.level, tuple(records))
