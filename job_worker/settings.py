"""The settings of a job worker: one frozen record per section.  Pure.

deploy/examples/job.toml says what each key is for.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import msgspec

from runtime.rpc.limits import RpcLimits
from runtime.sections import (
    Admin,
    ClientTls,
    DrainLimits,
    Etcd,
    Log,
    Nsqd,
    Registration,
    Section,
    ServiceSettings,
)
from runtime.units import Peers, PositiveCount, PositiveDuration, Size
from schema.batch import HEAD_BYTES
from schema.names import CHANNEL, CONN_SERVICE, JOB_SERVICE, queue_name_problem

ITEM_BYTES: Final = 256
"""Who said one record of a batch, when, and its identity, generously."""
BESIDE_BATCH_BYTES: Final = 512 * 1024
"""What a request may carry besides one batch: smaller ones that have gathered (stream.py), its own heads."""


class Room(Section, frozen=True):
    """`[room]`: when a room's messages are merged and flushed, and when its feed ends.

    Attributes:
        feed_messages: that wait to be merged; a full feed stops the consumer.
        max_rooms: with a feed at the same time; beyond, the quietest one ends early.
    """

    WITHOUT_MEANING: ClassVar[tuple[str, ...]] = ("maxBufferSize",)

    batch: PositiveCount = 20
    max_bytes: Size = msgspec.field(default=64 * 1024, name="maxBytes")
    signal_s: PositiveDuration = 1.0
    idle_s: PositiveDuration = 600.0
    feed_messages: PositiveCount = 256
    max_rooms: PositiveCount = 100_000

    def __post_init__(self) -> None:
        """Refuse batches that no conn server takes: each would end the stream, and be tried again for ever.

        Raises:
            ValueError: the text begins with the key.
        """
        most_bytes = RpcLimits().receive_limit_bytes - BESIDE_BATCH_BYTES
        records = min(self.batch, self.max_bytes // (HEAD_BYTES + 1))
        if self.max_bytes + records * ITEM_BYTES > most_bytes:
            raise ValueError(
                f"maxBytes: with {ITEM_BYTES} more for each of {records} messages (batch) "
                f"it must not be over {most_bytes} bytes, what a conn server takes at once"
            )


class Nsq(Nsqd, frozen=True):
    """`[nsq]`: where to consume.

    Attributes:
        channel: shared by all workers; the Go job's was `room_job_6002`.
        lookupd: addresses of nsqlookupd, where more nsqds are found.
        max_in_flight: deliveries on loan at a time.
        msg_timeout_s: how long nsqd waits for the answer to one.
    """

    channel: str = CHANNEL
    lookupd: Peers = ()
    max_in_flight: PositiveCount = 2500
    msg_timeout_s: PositiveDuration = 10.0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and what nsqd would refuse.

        Raises:
            ValueError: the text begins with the key.
        """
        Nsqd.__post_init__(self)
        if self.msg_timeout_s < 1:
            raise ValueError("msgTimeout: must be 1s at least")
        if problem := queue_name_problem(self.channel):
            raise ValueError(f"channel: {problem}")
        if not self.addresses and not self.lookupd:
            raise ValueError("addr: needs one nsqd at least, or lookupd an nsqlookupd that knows some")


class Lane(Section, frozen=True):
    """`[lane]`: the way to one conn server; over the first two NORMAL is dropped, oldest first.

    Attributes:
        max_batches: unacknowledged.
        max_bytes: of those.
        concurrency: rooms whose batches are under way at the same time.
        call_timeout_s: for one batch, after which it is tried again.
        patience_s: a full lane holds up the queue if it turns over within that time; slower, it drops.
        detach_after_s: a conn server that has not answered for so long holds nobody up.
        window_s: how long IMPORTANT is kept for such a one.
    """

    max_batches: PositiveCount = 64
    max_bytes: Size = msgspec.field(default=8 * 1024 * 1024, name="maxBytes")
    concurrency: PositiveCount = 8
    call_timeout_s: PositiveDuration = 3.0
    patience_s: PositiveDuration = 2.0
    detach_after_s: PositiveDuration = 8.0
    window_s: PositiveDuration = 120.0


class Rpc(Section, frozen=True):
    """`[rpc]`: where conn servers are found.

    Attributes:
        conns: the conn servers there are, where `[etcd] addrs` is empty.
    """

    WITHOUT_MEANING: ClassVar[tuple[str, ...]] = ("prefix",)

    conn_service: Annotated[str, msgspec.Meta(min_length=1)] = msgspec.field(
        default=CONN_SERVICE, name="connRpcPrefix"
    )
    conns: Peers = ("127.0.0.1:6000",)


class Conn(Section, frozen=True):
    """`[conn]`: the Go system's routines per conn server; ours have one ordered lane each."""

    WITHOUT_MEANING: ClassVar[tuple[str, ...]] = ("routineChan", "routineSize")


class JobSettings(ServiceSettings, frozen=True):
    """All settings of a job worker."""

    room: Room = Room()
    nsq: Nsq = Nsq()
    lane: Lane = Lane()
    rpc: Rpc = Rpc()
    conn: Conn = Conn()
    registration: Registration = msgspec.field(
        default=Registration(service_name=JOB_SERVICE, listen_address="127.0.0.1:6002"), name="srv"
    )
    tls: ClientTls = ClientTls()
    etcd: Etcd = Etcd()
    admin: Admin = Admin()
    log: Log = Log()
    drain: DrainLimits = DrainLimits()
