"""`python -m logic_server`: argv -> settings -> `app.serve`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from logic_server.app import serve
from logic_server.settings import LogicSettings
from runtime.lifecycle import run_service
from runtime.settings import check_option, conf_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@conf_option("logic-example.toml")
@check_option()
def main(conf: Path | None, check: bool) -> None:  # noqa: FBT001  click passes it
    """Check tokens, and hand what is said to the queue."""
    sys.exit(run_service("logic", LogicSettings, serve, conf=conf, check=check))


if __name__ == "__main__":
    main()
