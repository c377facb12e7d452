"""The settings of a logic server: one frozen record per section.  Pure.

deploy/examples/logic.toml says what each key is for.
"""

from __future__ import annotations

import msgspec

from runtime.sections import (
    Admin,
    DrainLimits,
    Etcd,
    Log,
    Nsqd,
    Registration,
    RuleLimits,
    ServerTls,
    ServiceSettings,
    TokenKey,
)
from runtime.units import PositiveDuration, Size, format_size
from schema.envelope import MAX_DATA_BYTES
from schema.message import ENVELOPE_BYTES, MAX_BODY_BYTES
from schema.names import LOGIC_SERVICE


class Nsq(Nsqd, frozen=True):
    """`[nsq]`: where to publish; a publish that the queue has not got in time is `Unavailable`."""

    publish_timeout_s: PositiveDuration = 5.0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and what nothing could be published to.

        Raises:
            ValueError: the text begins with the key.
        """
        Nsqd.__post_init__(self)
        if not self.addresses:
            raise ValueError("addr: needs one nsqd at least")


class Rules(RuleLimits, frozen=True):
    """`[rules]`: what one user may do, on all connections of this logic server together.

    Attributes:
        max_data_bytes: of one message.
    """

    max_data_bytes: Size = MAX_DATA_BYTES

    def __post_init__(self) -> None:
        """Refuse what the queue would refuse, each time.

        Raises:
            ValueError: the text begins with the key.
        """
        if self.max_data_bytes > MAX_BODY_BYTES - ENVELOPE_BYTES:
            raise ValueError(
                f"maxData: must be {ENVELOPE_BYTES} bytes under {format_size(MAX_BODY_BYTES)} at least, "
                "which is what the queue takes"
            )


class LogicSettings(ServiceSettings, frozen=True):
    """All settings of a logic server."""

    registration: Registration = msgspec.field(
        default=Registration(service_name=LOGIC_SERVICE, listen_address="127.0.0.1:6001"), name="srv"
    )
    token: TokenKey = TokenKey()
    rules: Rules = Rules()
    nsq: Nsq = Nsq()
    tls: ServerTls = ServerTls()
    etcd: Etcd = Etcd()
    admin: Admin = Admin()
    log: Log = Log()
    drain: DrainLimits = DrainLimits()
