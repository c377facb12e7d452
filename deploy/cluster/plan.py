"""What the cluster consists of: programs, settings files, addresses, and the order of their start.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("etcd", "nsqd")
"""What must be on PATH."""
LOOPBACK: Final = "127.0.0.1"
DRAIN_S: Final = 5


@dataclass(frozen=True, slots=True)
class Part:
    """One process.

    Attributes:
        name: before each line that it says.
        command: program and arguments.
        address: "host:port" that tells when it is ready.
        has_readyz: it is ready when `/readyz` there answers 200; otherwise, when a connection is taken.
        environ: what its environment has besides ours.
    """

    name: str
    command: tuple[str, ...]
    address: str
    has_readyz: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster.

    Attributes:
        files: path -> text, to be written before the start.
        stages: what is started together, in this order; the stop goes the other way.
        addresses: what -> where, for people.
    """

    files: Mapping[Path, str]
    stages: tuple[tuple[Part, ...], ...]
    addresses: Mapping[str, str]

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts in the order of their start."""
        return tuple(part for stage in self.stages for part in stage)


def make_plan(
    folder: Path, python: str, secret: str, port: Callable[[int], int], *, conns: int = 2, logics: int = 2
) -> Plan:
    """Return a cluster of conn servers, logic servers and one job worker with what they need.

    Args:
        folder: for settings and data; it goes with the cluster.
        python: the interpreter of the services.
        secret: for tokens; conn needs it for `/tk`, logic to check them, job never.
        port: returns the port that is wanted, or another one where that is taken.
        conns: how many conn servers.
        logics: how many logic servers.
    """
    etcd = f"{LOOPBACK}:{port(2379)}"
    nsqd, nsqd_http = f"{LOOPBACK}:{port(4150)}", f"{LOOPBACK}:{port(4151)}"
    needed = _etcd(folder, etcd, f"{LOOPBACK}:{port(2380)}"), _nsqd(folder, nsqd, nsqd_http)
    knows_secret = {"ROOMCAST_TOKEN_SECRET": secret}
    files: dict[Path, str] = {}
    addresses = {"etcd": f"http://{etcd}", "nsqd": nsqd, "nsqd stats": f"http://{nsqd_http}/stats"}

    def service(kind: str, module: str, number: int, environ: Mapping[str, str], *sections: str) -> Part:
        name = f"{kind}-{number}"
        grpc = port({"conn": 6000, "logic": 6001, "job": 6002}[kind] + 10 * (number - 1))
        admin = f"{LOOPBACK}:{port(grpc + 1000)}"
        path = folder / f"{name}.toml"
        files[path] = "\n".join((*sections, _shared(grpc, admin, etcd)))
        addresses[f"{name} admin"] = f"http://{admin}/metrics"
        return Part(name, (python, "-m", module, "-conf", str(path)), admin, has_readyz=True, environ=environ)

    def conn(number: int) -> Part:
        client = f"{LOOPBACK}:{port(8080 + number)}"
        addresses[f"conn-{number}"] = f"http://{client}/ and ws://{client}/room"
        sections = f'[websocket]\nbind = "{client}"\n', "[http]\ndemo = true\n", "[token]\nissue = true\n"
        return service("conn", "conn_server", number, knows_secret, *sections)

    queue = f'[nsq]\naddr = ["{nsqd}"]\n'
    stages = (
        needed,
        tuple(
            service("logic", "logic_server", number, knows_secret, queue) for number in range(1, logics + 1)
        ),
        tuple(conn(number) for number in range(1, conns + 1)),
        (service("job", "job_worker", 1, {}, queue),),
    )
    return Plan(files, stages, addresses)


def _shared(grpc: int, admin: str, etcd: str) -> str:
    return f"""\
[srv]
listenAddr = "{LOOPBACK}:{grpc}"

[etcd]
addrs = ["{etcd}"]

[admin]
bind = "{admin}"

[log]
format = "console"

[drain]
timeout = "{DRAIN_S}s"
"""


def _etcd(folder: Path, address: str, peer_address: str) -> Part:
    command = (
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://{address}",
        f"--advertise-client-urls=http://{address}",
        f"--listen-peer-urls=http://{peer_address}",
        f"--initial-advertise-peer-urls=http://{peer_address}",
        f"--initial-cluster=default=http://{peer_address}",
        "--logger=zap",
        "--log-level=error",
    )
    return Part("etcd", command, address)


def _nsqd(folder: Path, address: str, http_address: str) -> Part:
    """Give nsqd the flags that docs/operations.md recommends; ask at its HTTP port whether it is ready."""
    command = (
        "nsqd",
        f"--data-path={folder}",
        f"--tcp-address={address}",
        f"--http-address={http_address}",
        f"--broadcast-address={LOOPBACK}",
        "--mem-queue-size=0",
        "--min-output-buffer-timeout=1ms",
        "--output-buffer-timeout=1ms",
        "--msg-timeout=10s",
        "--log-level=error",
    )
    return Part("nsqd", command, http_address)
