"""What each worker is told, and when it is told to stop.  Pure.

Rules
1. A worker is the same program with the same settings file; what differs is in its environment.
2. gRPC, and what others dial: the port of the settings + the worker's number.  Port 0 stays any free one.
3. Admin: the supervisor has the port of the settings, worker i has that + 1 + i.
4. All stops fit into the one drain: the pauses between them take half of it at most, and a worker has what
   the last one has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from conn_server.settings import ConnSettings
from runtime.failures import SetupError
from runtime.sources import PREFIX, fold
from runtime.units import format_address, format_duration, split_address

NUMBER: Final = f"{PREFIX}WORKER"
"""Variable with the number of a worker: whoever has it is one, and ends with its standard input."""
HIGHEST_PORT: Final = 65535
MARGIN_S: Final = 1.0
"""How long before the deadline of the whole drain the last worker's own is."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How the workers are stopped.

    Attributes:
        interval_s: from the stop of one to that of the next.
        timeout_s: the drain of one.
    """

    interval_s: float
    timeout_s: float


def stop_steps(workers: int, interval_s: float, timeout_s: float) -> Steps:
    """Return the steps of a drain.

    Args:
        workers: how many.
        interval_s: the pause that is wanted.
        timeout_s: for all of them together.
    """
    pauses = workers - 1
    interval_s = min(interval_s, timeout_s / 2 / pauses) if pauses else interval_s
    rest_s = timeout_s - pauses * interval_s
    return Steps(interval_s, max(rest_s - MARGIN_S, rest_s / 2))


def environment(
    settings: ConnSettings, number: int, environ: Mapping[str, str], client_port: int
) -> dict[str, str]:
    """Return the environment of a worker.

    Args:
        settings: the supervisor's.
        number: of the worker, from 0.
        environ: the supervisor's environment: other settings, secrets, credentials.
        client_port: the port that the workers share.

    Raises:
        SetupError: there is no such port for this worker.
    """
    websocket, registration = settings.websocket, settings.registration
    steps = stop_steps(websocket.workers, settings.drain.worker_interval_s, settings.drain.timeout_s)
    told = {
        "WEBSOCKET__WORKERS": "1",
        "WEBSOCKET__REUSEPORT": "true",
        "WEBSOCKET__BIND": format_address(split_address(websocket.bind).host, client_port),
        "SRV__LISTENADDR": _shifted("[srv] listenAddr", registration.listen_address, number),
        "ADMIN__BIND": _admin(settings, number),
        "DRAIN__TIMEOUT": format_duration(steps.timeout_s),
    }
    if registration.advertise_address:
        told["SRV__ADVERTISEADDR"] = _shifted("[srv] advertiseAddr", registration.advertise_address, number)
    variables = {f"{PREFIX}{key}": value for key, value in told.items()}
    # The same setting in another spelling would win over ours.
    replaced = {fold(name) for name in variables}
    inherited = {name: value for name, value in environ.items() if fold(name) not in replaced}
    return {**inherited, **variables, NUMBER: str(number)}


def _admin(settings: ConnSettings, number: int) -> str:
    host, port = settings.admin.address(settings.registration.listen_address)
    if settings.admin.bind:
        return _shifted("[admin] bind", settings.admin.bind, 1 + number)
    return format_address(host, port + 1 + number if 0 < port < HIGHEST_PORT - number else 0)


def _shifted(key: str, address: str, by: int) -> str:
    host, port = split_address(address)
    if port and port + by > HIGHEST_PORT:
        raise SetupError(f"{key} {address}: there is no port {port + by} for [websocket] workers")
    return format_address(host, port + by if port else 0)
