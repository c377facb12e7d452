"""How to reach and treat nsqd: one frozen record, checked when it is made.

The values are measured ones (docs/delivery.md); an installation changes addresses, TLS and secrets.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from socket import gethostname
from typing import Any, Final

from runtime.sections import Nsqd
from runtime.tls import client_context
from runtime.units import split_peer
from schema.message import MAX_BODY_BYTES

DEFAULT_NSQD: Final = "127.0.0.1:4150"


@dataclass(frozen=True, slots=True, kw_only=True)
class NsqOptions:
    """What producers, consumers and their connections are made with.

    Attributes:
        nsqd: static addresses, "host:port"; a producer knows only these.
        lookupd: HTTP addresses of nsqlookupd, "host:port" or a URL; a consumer finds more nsqds there.
        tls: how to verify nsqd and who we are; None speaks in clear.
        tls_name: the name in nsqd's certificate where it is not the host of the address.
        auth_secret: sent with AUTH when nsqd asks for it; never in a repr.
        msg_timeout_s: asked for: how long a delivery may stay unanswered, 1 s at least.
        heartbeat_s: asked for: how often nsqd says that it is there; silent for two and a bit, and it is
            taken for dead (a half-open peer).
        output_buffering_ms: asked for in this order until nsqd agrees.  25 is the least that it allows by
            default; to 1 it agrees when started with --min-output-buffer-timeout=1ms.
        max_message_bytes: nsqd's --max-msg-size, which it does not announce.
        max_batch_bytes: the most that one MPUB carries; nsqd's --max-body-size is 5 MiB.
        max_waiting_bytes: published and not yet stored; over it a publish is refused at once.
        max_unsent_bytes: commands that a peer has not read; over it the connection is given up.
        publish_deadline_s: for one publish, the wait for a connection included.
        answer_deadline_s: an nsqd that leaves a command unanswered for so long is taken for dead.
        connect_deadline_s: for connect, IDENTIFY, TLS and AUTH together.
        reconnect_min_s: the first pause before connecting again; doubled at each failure.
        reconnect_max_s: the longest pause; each is shortened by chance, down to the half.
        drain_deadline_s: what is on loan or being stored gets so long when a context is left.
        lookup_interval_s: between two questions to nsqlookupd.
        client_id: how nsqd's statistics call us.
    """

    nsqd: tuple[str, ...] = (DEFAULT_NSQD,)
    lookupd: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    tls_name: str | None = None
    auth_secret: str | None = field(default=None, repr=False)
    msg_timeout_s: float = 10.0
    heartbeat_s: float = 5.0
    output_buffering_ms: tuple[int, ...] = (1, 25)
    max_message_bytes: int = MAX_BODY_BYTES
    max_batch_bytes: int = 2 << 20
    max_waiting_bytes: int = 16 << 20
    max_unsent_bytes: int = 8 << 20
    publish_deadline_s: float = 5.0
    answer_deadline_s: float = 5.0
    connect_deadline_s: float = 2.0
    reconnect_min_s: float = 0.05
    reconnect_max_s: float = 1.0
    drain_deadline_s: float = 4.0
    lookup_interval_s: float = 10.0
    client_id: str = field(default_factory=gethostname)

    def __post_init__(self) -> None:
        """Refuse what could never work.

        Raises:
            ValueError: a bad address, nobody to talk to, or limits that contradict each other.
        """
        for address in self.nsqd:
            split_peer(address)
        if not self.nsqd and not self.lookupd:
            raise ValueError("neither nsqd nor nsqlookupd addresses")
        if not 0 < self.max_message_bytes <= self.max_batch_bytes <= self.max_waiting_bytes:
            raise ValueError("not max_message_bytes <= max_batch_bytes <= max_waiting_bytes")
        if self.max_unsent_bytes < 3 * self.max_batch_bytes:
            raise ValueError("max_unsent_bytes has no room for three batches")
        if self.msg_timeout_s < 1 or self.heartbeat_s < 1:
            raise ValueError("nsqd takes no msg_timeout and no heartbeat below 1 s")
        if not self.output_buffering_ms:
            raise ValueError("no output buffering to ask for")


def options_from(nsq: Nsqd, **treatment: Any) -> NsqOptions:
    """Return how to reach the nsqd that settings name.

    Args:
        nsq: `[nsq]`: its addresses, secret and TLS.
        treatment: the other fields of `NsqOptions`, as the service wants them.

    Raises:
        SetupError: a certificate, key or authority cannot be read.
    """
    secret, tls = nsq.auth_secret, None
    if nsq.tls:
        tls = client_context("[nsq]", ca=nsq.ca_file, certificate=nsq.cert_file, key=nsq.key_file)
    return NsqOptions(
        nsqd=nsq.addresses,
        tls=tls,
        tls_name=nsq.server_name or None,
        auth_secret=secret.reveal().decode() if secret is not None else None,
        **treatment,
    )
