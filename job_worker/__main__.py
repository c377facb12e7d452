"""`python -m job_worker`: argv -> settings -> `app.serve`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from job_worker.app import serve
from job_worker.settings import JobSettings
from runtime.lifecycle import run_service
from runtime.settings import check_option, conf_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@conf_option("job-example.toml")
@check_option()
def main(conf: Path | None, check: bool) -> None:  # noqa: FBT001  click passes it
    """Merge what is said in rooms, and push it to the conn servers."""
    sys.exit(run_service("job", JobSettings, serve, conf=conf, check=check))


if __name__ == "__main__":
    main()
