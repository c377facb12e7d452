"""`python -m standalone`: the whole system in one process, to try it out."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from runtime.lifecycle import run_service
from runtime.settings import check_option, conf_option
from standalone.app import Standalone, serve
from standalone.settings import StandaloneSettings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@conf_option("standalone.toml")
@check_option()
def main(conf: Path | None, check: bool) -> None:  # noqa: FBT001  click passes it
    """Run all three services in one process, with an embedded queue."""
    sys.exit(run_service("standalone", StandaloneSettings, serve, conf=conf, check=check, announce=introduce))


def introduce(where: Standalone) -> None:
    """Print where the system is and what to try."""
    print(
        f"""
  Roomcast is running.  Open this page, and again in a second tab:

      {where.http_url}/

  A token, and a message to everybody in the room "lobby":

      TOKEN=$(curl -s -d uid=7 {where.http_url}/tk | sed 's/.*"data":"\\([^"]*\\)".*/\\1/')
      curl -H "Authorization: Bearer $TOKEN" -d room_id=lobby -d msg=hello {where.http_url}/msg

  WebSocket {where.websocket_url}
  Numbers   {where.admin_url}/metrics
  Ctrl-C ends it.
""",
        flush=True,
    )


if __name__ == "__main__":
    main()
