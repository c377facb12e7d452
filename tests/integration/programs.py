"""What the commands of this folder need beside the project."""

from __future__ import annotations

import shutil

import click


def find_etcd() -> str:
    """Return where etcd is.

    Raises:
        click.ClickException: it is not on PATH.
    """
    found = shutil.which("etcd")
    if found is None:
        raise click.ClickException("no etcd on PATH: install Debian's etcd-server")
    return found
