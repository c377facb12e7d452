"""A Trio client of a conn server: `async with open_client(url, token=..., room=...) as client`."""

from clients.python.client import Client, open_client
from clients.python.errors import (
    ClientError,
    Closed,
    ConnectFailed,
    Disconnected,
    NoAnswer,
    PublishRefused,
    RequestRefused,
    SignInRefused,
)
from clients.python.frames import Received
from clients.python.options import Deadlines, Options, Statistics

__all__ = [
    "Client",
    "ClientError",
    "Closed",
    "ConnectFailed",
    "Deadlines",
    "Disconnected",
    "NoAnswer",
    "Options",
    "PublishRefused",
    "Received",
    "RequestRefused",
    "SignInRefused",
    "Statistics",
    "open_client",
]
