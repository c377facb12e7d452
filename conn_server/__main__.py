"""`python -m conn_server -conf conn.toml`: one conn server, or `[websocket] workers` on one port."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import trio
from structlog.typing import FilteringBoundLogger

from conn_server.app import serve
from conn_server.settings import ConnSettings
from conn_server.workers.lifeline import drain_without_supervisor
from conn_server.workers.plan import NUMBER
from conn_server.workers.supervisor import Supervisor
from runtime.lifecycle import Drain, Hooks, run_service
from runtime.settings import check_option, conf_option


@click.command(name="conn_server")
@conf_option("conn-example.toml")
@check_option()
def main(conf: Path | None, check: bool) -> None:  # noqa: FBT001  a flag of the command line
    """Hold clients' connections: sign-in, rooms, pushes, and /msg for back ends."""
    # A worker is started as we were, options of the interpreter included.
    supervisor = Supervisor([sys.executable, *sys.orig_argv[1:]], os.environ)

    async def run(
        settings: ConnSettings,
        drain: Drain,
        log: FilteringBoundLogger,
        *,
        task_status: trio.TaskStatus[object],
    ) -> None:
        number = os.environ.get(NUMBER)
        if number is not None:
            await serve_worker(settings, drain, log.bind(worker=int(number)), task_status=task_status)
        elif settings.websocket.workers > 1:
            await supervisor.serve(settings, drain, log, task_status=task_status)
        else:
            await serve(settings, drain, log, task_status=task_status)

    hooks = Hooks(reload=supervisor.reload, is_alive=supervisor.is_alive)
    sys.exit(run_service("conn", ConnSettings, run, conf=conf, check=check, hooks=hooks))


async def serve_worker(
    settings: ConnSettings, drain: Drain, log: FilteringBoundLogger, *, task_status: trio.TaskStatus[object]
) -> None:
    """Serve as one of several: until `drain` has begun, by itself when the supervisor is gone."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain_without_supervisor, drain, log)
        await serve(settings, drain, log, task_status=task_status)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    main()
