"""What producers and consumers tell about themselves: plain numbers, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProducerStatistics:
    """What a producer does and has done.

    Attributes:
        connections: alive now.
        waiting_bytes: published and not yet stored, now.
        stored: messages that nsqd has confirmed.
        batches: MPUBs in which they went.
        isolated: calls sent again, alone, because their batch was refused.
        resent: calls sent again because nsqd had not looked at them.
        refused: calls not stored, by reason: `full`, `deadline`, `closing`, `poison`, or why nsqd or the
            connection failed.
        connected: handshakes done.
        failures: attempts that failed and connections that ended, by reason.
    """

    connections: int
    waiting_bytes: int
    stored: int
    batches: int
    isolated: int
    resent: int
    refused: dict[str, int]
    connected: int
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """What a consumer does and has done.

    Attributes:
        nsqds: addresses known now, static and found.
        connections: subscribed now.
        on_loan: received from nsqd and open, now; `waiting` of them not yet given out.
        received: deliveries that came, `redelivered` of them not for the first time.
        answers: `finished`, `requeued`, `touched`; `late` and `repeated` changed nothing; `stale` had
            ended before they were given out; `returned` were requeued by the consumer itself.
        too_late: answers that nsqd refused, by error code.
        connected: handshakes done.
        failures: attempts that failed and connections that ended, by reason.
        lookup_failures: questions that nsqlookupd did not answer, by reason.
    """

    nsqds: int
    connections: int
    on_loan: int
    waiting: int
    received: int
    redelivered: int
    answers: dict[str, int]
    too_late: dict[str, int]
    connected: int
    failures: dict[str, int]
    lookup_failures: dict[str, int]
