"""The settings of the all-in-one: those of the three services, without what only links need.  Pure.

deploy/examples/standalone.toml says what each key is for.
"""

from __future__ import annotations

from typing import ClassVar, Final

from conn_server.settings import Bucket, ConnSettings, Http, Token, WebSocket
from job_worker.settings import JobSettings
from logic_server.settings import LogicSettings
from runtime.sections import ClientDrain, Log, ServiceSettings

NSQD: Final = (
    *("addr", "topic", "partitions", "authSecret"),
    *("tls", "caFile", "certFile", "keyFile", "serverName"),
)
"""Keys of `[nsq]` about who nsqd is: the queue is embedded."""


class StandaloneSettings(ServiceSettings, frozen=True):
    """All settings of the all-in-one.  One admin port, one log, one drain and one secret serve all three."""

    NOT_HERE: ClassVar[tuple[str, ...]] = (
        *(f"conn.{name}" for name in ("etcd", "srv", "tls", "log", "rpc")),
        "conn.token.verify",
        "conn.rules.join",
        *(f"conn.{name}" for name in ("websocket.workers", "websocket.reusePort", "drain.workerInterval")),
        *(f"logic.{name}" for name in ("etcd", "srv", "tls", "log", "admin", "drain", "token")),
        *(f"logic.nsq.{name}" for name in NSQD),
        *(f"job.{name}" for name in ("etcd", "srv", "tls", "log", "admin", "drain", "rpc", "conn")),
        *(f"job.nsq.{name}" for name in (*NSQD, "channel", "lookupd")),
    )

    conn: ConnSettings = ConnSettings(
        bucket=Bucket(size=8),  # more than one machine's clients, and under most limits of open files
        websocket=WebSocket(bind="127.0.0.1:8081"),
        http=Http(demo=True),
        token=Token(issue=True),
    )
    logic: LogicSettings = LogicSettings()
    job: JobSettings = JobSettings()
    log: Log = Log()

    @property
    def token(self) -> Token:
        """The one key of the process: `/tk` makes tokens with it, and logic checks them."""
        return self.conn.token

    @property
    def drain(self) -> ClientDrain:
        """The one drain of the process."""
        return self.conn.drain
