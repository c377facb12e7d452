"""The settings of a conn server: one frozen record per section.  Pure.

deploy/examples/conn.toml says what each key is for; units are in the names here, and in the values there.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal
from urllib.parse import urlsplit

import msgspec

from runtime.sections import (
    Admin,
    ClientDrain,
    Etcd,
    Log,
    PeerTls,
    Registration,
    RuleLimits,
    Section,
    ServiceSettings,
    TokenKey,
)
from runtime.units import Bind, Count, Peers, PositiveCount, PositiveDuration, Rate, Size
from schema.access import EVERY_ROOM
from schema.envelope import MAX_DATA_BYTES, MAX_FRAME_BYTES
from schema.names import CONN_SERVICE, LOGIC_SERVICE

RESERVED_FDS: Final = 128
"""Files that are not clients: links, listeners, logs, connections on their way in."""
ENVELOPE_BYTES: Final = 512
"""What a frame carries around the data of one message, generously: room name, ids, field heads."""
RESERVED_PATHS: Final = ("/", "/index.html", "/msg", "/tk")
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]*)+")  # pchar of RFC 3986, and nothing encoded
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Bucket(Section, frozen=True):
    """`[bucket]`: how many connections and rooms a node takes.  The Go system splits them up, we do not."""

    WITHOUT_MEANING: ClassVar[tuple[str, ...]] = ("routineAmount", "routineSize")

    size: PositiveCount = 32
    connections: PositiveCount = msgspec.field(default=1024, name="conns")
    rooms: PositiveCount = msgspec.field(default=1024, name="room")

    @property
    def max_connections(self) -> int:
        """The connection limit before the fd limit is looked at."""
        return self.size * self.connections


class WebSocket(Section, frozen=True):
    """`[websocket]`: the client port, its deadlines and its limits."""

    bind: Bind = ":8081"
    path: str = "/room"
    tls_cert: str = ""
    tls_key: str = ""
    origins: tuple[str, ...] = ()
    per_address: Count = 0
    backlog: PositiveCount = 4096
    accept_rate: Rate = 1000.0
    accept_burst: PositiveCount = 50
    hold_timeout_s: PositiveDuration = 30.0
    workers: PositiveCount = 1
    reuse_port: bool = False
    head_timeout_s: PositiveDuration = 5.0
    sign_in_timeout_s: PositiveDuration = 5.0
    heartbeat_timeout_s: PositiveDuration = 600.0
    heartbeat_timeout_v1_s: PositiveDuration = 60.0
    close_timeout_s: PositiveDuration = 5.0
    stall_timeout_s: PositiveDuration = 20.0
    sweep_interval_s: PositiveDuration = 1.0
    max_head_bytes: Size = 8 * 1024
    max_frame_bytes: Size = MAX_FRAME_BYTES
    max_message_bytes: Size = MAX_FRAME_BYTES
    max_data_bytes: Size = MAX_DATA_BYTES
    outbox_soft_bytes: Size = 256 * 1024
    outbox_hard_bytes: Size = 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: the text begins with the key.
        """
        if not _PATH.fullmatch(self.path) or self.path in RESERVED_PATHS:
            raise ValueError(
                'path: expected a path of its own such as "/room", '
                f"of letters, digits and -._~!$&'()*+,;=:@/, got {self.path!r}"
            )
        if not {".", ".."}.isdisjoint(self.path.split("/")):
            raise ValueError(f"path: clients take . and .. out of a path, got {self.path!r}")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tlsCert and tlsKey: one needs the other")
        if self.max_data_bytes + ENVELOPE_BYTES > self.max_message_bytes:
            raise ValueError(f"maxData: must be {ENVELOPE_BYTES} bytes under maxMessage at least")
        if self.max_frame_bytes > self.max_message_bytes:
            raise ValueError("maxFrame: must not be over maxMessage")
        if self.outbox_soft_bytes > self.outbox_hard_bytes:
            raise ValueError("outboxSoft: must not be over outboxHard")
        if self.outbox_hard_bytes < self.max_data_bytes + ENVELOPE_BYTES:
            raise ValueError("outboxHard: must hold at least one message of maxData")
        for origin in self.origins:
            if (problem := _origin_problem(origin)) is not None:
                raise ValueError(f"origins: {problem}")


class Http(Section, frozen=True):
    """`[http]`: `/msg`, `/tk` and the demo page, on the client port."""

    codes: Literal["readme", "go"] = "readme"
    cors_origin: str = "*"
    demo: bool = False
    max_body_bytes: Size = 256 * 1024
    body_timeout_s: PositiveDuration = 10.0
    request_timeout_s: PositiveDuration = 10.0
    write_timeout_s: PositiveDuration = 10.0
    keep_alive_timeout_s: PositiveDuration = 30.0
    connections: PositiveCount = 256
    replay_window_s: PositiveDuration = 120.0
    replay_keys: PositiveCount = 65536

    def __post_init__(self) -> None:
        """Refuse what browsers would not take as their page's origin.

        Raises:
            ValueError: the text begins with the key.
        """
        if self.cors_origin in ("", "*"):
            return
        if (problem := _origin_problem(self.cors_origin)) is not None:
            raise ValueError(f"corsOrigin: {problem}")


def _origin_problem(origin: str) -> str | None:
    """Say why no browser would ever send `origin`, which is compared byte by byte (RFC 6454 section 6.2)."""
    try:
        parts = urlsplit(origin)
        is_origin = bool(parts.scheme and parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is none
        parts, is_origin = urlsplit(""), False
    if not is_origin or parts.path or parts.query or parts.fragment:
        return f'expected origins such as "https://chat.example", got {origin!r}'
    if not origin.isascii():
        return f'browsers send a host in ASCII, such as "https://xn--...", got {origin!r}'
    host = parts.netloc.lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, "")).removesuffix(":")
    sent = f"{parts.scheme}://{host}"
    return None if origin == sent else f"browsers send {sent!r}, got {origin!r}"


class Token(TokenKey, frozen=True):
    """`[token]`: what needs the secret here.

    Attributes:
        issue: opens `/tk`, which makes tokens for anyone.
        verify: "local" checks tokens here instead of asking a logic server.
    """

    issue: bool = False
    verify: Literal["logic", "local"] = "logic"

    @property
    def needs_key(self) -> bool:
        """Whether this node needs the secret."""
        return self.issue or self.verify == "local"


class Rules(RuleLimits, frozen=True):
    """`[rules]`: what one connection may do."""

    post_anywhere: bool = msgspec.field(default=False, name="post_anywhere")


class Rpc(Section, frozen=True):
    """`[rpc]`: whom the node talks to, and how long a sign-in or publish may take there.

    Attributes:
        logic: the logic servers where `[etcd] addrs` is empty.
    """

    # Services are announced as the Go system's really are, without the prefix; and conn dials no job worker.
    WITHOUT_MEANING: ClassVar[tuple[str, ...]] = ("prefix", "jobRpcPrefix")

    logic_service: Annotated[str, msgspec.Meta(min_length=1)] = msgspec.field(
        default=LOGIC_SERVICE, name="logicRpcPrefix"
    )
    logic: Peers = ("127.0.0.1:6001",)
    request_timeout_s: PositiveDuration = 5.0


class ConnSettings(ServiceSettings, frozen=True):
    """All settings of a conn server."""

    bucket: Bucket = Bucket()
    websocket: WebSocket = WebSocket()
    http: Http = Http()
    token: Token = Token()
    rules: Rules = Rules()
    rpc: Rpc = Rpc()
    registration: Registration = msgspec.field(
        default=Registration(service_name=CONN_SERVICE, listen_address="127.0.0.1:6000"), name="srv"
    )
    tls: PeerTls = PeerTls()
    etcd: Etcd = Etcd()
    admin: Admin = Admin()
    log: Log = Log()
    drain: ClientDrain = ClientDrain()

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: the text begins with the key.
        """
        if self.rules.join != EVERY_ROOM and self.token.verify != "local":
            raise ValueError('rules.join: needs [token] verify = "local"; logic servers have their own')


def connection_limit(wanted: int, fd_limit: int) -> tuple[int, str | None]:
    """Return how many connections a node takes, and what to warn about if that is fewer than wanted.

    Args:
        wanted: `Bucket.max_connections`.
        fd_limit: how many files the process may have open (RLIMIT_NOFILE, soft).
    """
    possible = max(1, fd_limit - RESERVED_FDS)
    if wanted <= possible:
        return wanted, None
    return possible, (
        f"[bucket] asks for {wanted} connections, the limit of {fd_limit} open files leaves {possible}: "
        f"raise it to {wanted + RESERVED_FDS} (ulimit -n, LimitNOFILE=)"
    )
