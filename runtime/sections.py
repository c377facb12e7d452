"""The sections that several services have, as frozen records.  Pure.

A field `sign_in_timeout_s` is the key `signInTimeout`: the unit is in the name inside, and in the value
outside.  Keys of the Go system, and ours that are written differently, are named one by one.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from runtime.failures import SetupError
from runtime.secret import Secret
from runtime.units import (
    Address,
    OptionalBind,
    OptionalPeer,
    Peer,
    Peers,
    PositiveCount,
    PositiveDuration,
    Seconds,
    format_address,
    is_host,
    split_address,
)
from schema.access import EVERY_ROOM
from schema.names import TOPIC, queue_name_problem, topic_of

ADMIN_PORT_OFFSET = 1000


def wire_key(name: str) -> str:
    """Return the key of a field: camel case, without the unit."""
    head, *rest = name.removesuffix("_s").removesuffix("_bytes").split("_")
    return head + "".join(map(str.capitalize, rest))


class Section(msgspec.Struct, frozen=True, kw_only=True, rename=wire_key):
    """One section of a settings file, or a whole file.

    Attributes:
        WITHOUT_MEANING: keys of the Go system that are accepted and change nothing.
        NOT_HERE: keys and sections that this file does not have although the record does.
    """

    WITHOUT_MEANING: ClassVar[tuple[str, ...]] = ()
    NOT_HERE: ClassVar[tuple[str, ...]] = ()


class ServiceSettings(Section, frozen=True):
    """All settings of one process: whatever it does, it logs and drains."""

    @property
    def log(self) -> Log:
        """Return `[log]`."""
        raise NotImplementedError

    @property
    def drain(self) -> DrainLimits:
        """Return `[drain]`."""
        raise NotImplementedError


class Etcd(Section, frozen=True):
    """`[etcd]`: where services are announced and found; without addresses nobody is asked, and a service
    knows the others from its own settings alone.

    Attributes:
        addrs: endpoints of one etcd cluster; the first that answers is asked.
        dial_timeout_s: for a connection to one of them, and for the first answer when a service starts.
        user: of etcd's own authentication; its password is a secret.
        ca_file: PEM file of the authority that endpoints are checked by; it, or a certificate, turns TLS on.
        cert_file: PEM file with who we are, for an etcd that asks; the system's authorities where there is
            no `ca_file`.
    """

    addrs: Peers = ()
    dial_timeout_s: Seconds = msgspec.field(default=5.0, name="dialTimeOut")
    user: str = ""
    password: Annotated[Secret | None, msgspec.Meta(extra={"secret": "etcd_password"})] = None
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: the text begins with the key.
        """
        if bool(self.user) != (self.password is not None):
            raise ValueError("user: needs the secret etcd_password, and the other way round")
        _refuse_half(self.cert_file, self.key_file)


class Tls(Section, frozen=True):
    """The part of `[tls]`, gRPC between the services, that all of them have; without files it is cleartext
    HTTP/2, as in the Go system.

    Attributes:
        cert_file: PEM file with who we are, to those who dial us and to those whom we dial.
        key_file: PEM file with its private key, not encrypted.
        ca_file: PEM file of the authority that the others are checked by.
    """

    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""

    @property
    def is_on(self) -> bool:
        """Whether gRPC speaks TLS here."""
        return bool(self.cert_file or self.ca_file)

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: the text begins with the key.
        """
        _refuse_half(self.cert_file, self.key_file)


class ServerTls(Tls, frozen=True):
    """`[tls]` of a service that is dialled and dials nobody.

    Attributes:
        client_auth: only those are served whose certificate `ca_file` has signed.
    """

    client_auth: bool = False

    def __post_init__(self) -> None:
        """Refuse what would protect less than it looks like, or nothing."""
        Tls.__post_init__(self)
        _refuse_unserved(self.cert_file, self.ca_file, client_auth=self.client_auth)
        if self.ca_file and not self.client_auth:
            raise ValueError("caFile: checks clients, which clientAuth = true asks for")


class ClientTls(Tls, frozen=True):
    """`[tls]` of a service that dials others; an authority, or a certificate of ours, turns it on.

    Attributes:
        server_name: whom the others' certificates must name, where that is not the host of the address.
    """

    server_name: str = ""

    def __post_init__(self) -> None:
        """Refuse what would protect nothing."""
        Tls.__post_init__(self)
        _refuse_no_name(self.server_name)
        if self.server_name and not self.is_on:
            raise ValueError("serverName: needs caFile, which turns TLS on")


class PeerTls(ClientTls, frozen=True):
    """`[tls]` of a service that is dialled and dials others; it speaks TLS both ways or neither.

    Attributes:
        client_auth: only those are served whose certificate `ca_file` has signed.
    """

    client_auth: bool = False

    def __post_init__(self) -> None:
        """Refuse what would protect less than it looks like, or nothing."""
        ClientTls.__post_init__(self)
        _refuse_unserved(self.cert_file, self.ca_file, client_auth=self.client_auth)


def _refuse_half(cert_file: str, key_file: str) -> None:
    if bool(cert_file) != bool(key_file):
        raise ValueError("certFile and keyFile: one needs the other")


def _refuse_no_name(server_name: str) -> None:
    if not is_host(server_name):
        raise ValueError(f"serverName: no name of a host: {server_name!r}")


def _refuse_unserved(cert_file: str, ca_file: str, *, client_auth: bool) -> None:
    if client_auth and not ca_file:
        raise ValueError("clientAuth: needs caFile, who must have signed the clients' certificates")
    if ca_file and not cert_file:
        raise ValueError("caFile: needs certFile and keyFile, what gRPC is served with")


class Registration(Section, frozen=True):
    """`[srv]`: what the service is called, where it serves gRPC, and what others are told to dial."""

    service_name: str = msgspec.field(name="srvName")
    listen_address: Peer = msgspec.field(name="listenAddr")
    ttl_s: Seconds = 5.0
    advertise_address: OptionalPeer = msgspec.field(default="", name="advertiseAddr")

    def advertised(self, served: str = "") -> str:
        """Return the address that others dial, by the name that the settings say: certificates hold that one.

        Args:
            served: where gRPC is served, whose port is told where the settings leave it open (0).
        """
        address = self.advertise_address or self.listen_address
        host, port = split_address(address)
        return format_address(host, split_address(served).port) if served and not port else address


class Nsqd(Section, frozen=True):
    """The part of `[nsq]` that both ends of the queue have.

    Attributes:
        tls: whether nsqd is spoken to through TLS; one that cannot is not spoken to.
        ca_file: PEM file of the authority that nsqd is checked by; the system's where there is none.
        cert_file: PEM file with who we are, for an nsqd that asks.
        key_file: PEM file with its private key, not encrypted.
        server_name: whom nsqd's certificate must name, where that is not the host of the address.
    """

    addresses: Peers = msgspec.field(default=("127.0.0.1:4150",), name="addr")
    topic: str = TOPIC
    partitions: PositiveCount = 1
    auth_secret: Annotated[Secret | None, msgspec.Meta(extra={"secret": "nsq_auth_secret"})] = None
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: the text begins with the key.
        """
        _refuse_half(self.cert_file, self.key_file)
        _refuse_no_name(self.server_name)
        if problem := queue_name_problem(topic_of(self.topic, self.partitions - 1, self.partitions)):
            raise ValueError(f"topic: {problem}")
        if self.auth_secret is not None and not self.auth_secret.is_text:
            raise ValueError("authSecret: nsq_auth_secret must be UTF-8")
        if not self.tls and (self.ca_file or self.cert_file or self.server_name):
            raise ValueError("tls: must be true where caFile, certFile or serverName is given")


class TokenKey(Section, frozen=True):
    """The part of `[token]` that says what tokens are signed and checked with."""

    allow_short_key: bool = msgspec.field(default=False, name="allow_short_key")
    secret: Annotated[Secret | None, msgspec.Meta(extra={"secret": "token_secret"})] = None

    def require_key(self) -> bytes:
        """Return the key, whatever it is worth: `schema.tokens.check_key` says.

        Raises:
            SetupError: there is no secret.
        """
        if self.secret is None:
            raise SetupError(
                "no token secret: set ROOMCAST_TOKEN_SECRET, "
                "or put a file token_secret into $CREDENTIALS_DIRECTORY"
            )
        return self.secret.reveal()


class Admin(Section, frozen=True):
    """`[admin]`: health and metrics; empty is loopback at the gRPC port + 1000 (operations.md, Health)."""

    bind: OptionalBind = ""

    def address(self, listen_address: str) -> Address:
        """Return where to serve; port 0 is any free one."""
        if self.bind:
            return split_address(self.bind)
        port = split_address(listen_address).port
        admin_port = port + ADMIN_PORT_OFFSET if port else 0
        return Address("127.0.0.1", admin_port if admin_port <= 65535 else 0)


class Log(Section, frozen=True):
    """`[log]`: `auto` is `console` on a terminal and `json` elsewhere; `file` gets JSON lines as well."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    file: str = ""


class DrainLimits(Section, frozen=True):
    """`[drain]`: one deadline for the whole stop."""

    timeout_s: PositiveDuration = 20.0


class ClientDrain(DrainLimits, frozen=True):
    """`[drain]` of a conn server: how its clients are sent away, and when they should come back."""

    step_connections: PositiveCount = 500
    step_interval_s: PositiveDuration = 0.1
    retry_after_s: PositiveDuration = 2.0
    worker_interval_s: PositiveDuration = 1.0


class RuleLimits(Section, frozen=True):
    """The part of `[rules]` that conn and logic servers have.

    Attributes:
        publish_rate: messages per second of one publisher; 0: no limit.
        publish_burst: of them at once.
        join: rooms that a token may join which names none itself; a trailing `*` matches any rest.  It holds
            where tokens are checked.
    """

    publish_rate: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(default=0.0, name="publish_rate")
    publish_burst: PositiveCount = msgspec.field(default=20, name="publish_burst")
    join: tuple[str, ...] = EVERY_ROOM
