"""httpcore closes the socket of a TLS handshake that fails, but not of one that is cancelled."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio

from runtime.discovery.answers import EtcdError
from runtime.discovery.gateway import Gateway, open_gateway

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def no_help_from_the_collector() -> Iterator[None]:
    """The socket is to be closed at once, not when the collector happens to come by."""
    gc.disable()
    yield
    gc.enable()


async def asked_until_its_deadline(gateway: Gateway, hello: trio.Event) -> None:
    with pytest.raises(EtcdError, match="no answer within"):
        await gateway.grant(1)


async def asked_until_cancelled(gateway: Gateway, hello: trio.Event) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.grant, 1)
            await hello.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("ask", "answer_s"), [(asked_until_its_deadline, 0.05), (asked_until_cancelled, 60.0)]
)
async def test_silent_endpoint_sees_the_end_of_a_handshake_that_is_given_up(
    ask: Callable[[Gateway, trio.Event], Awaitable[None]], answer_s: float
) -> None:
    hello = trio.Event()
    ended = trio.Event()

    async def stay_silent(stream: trio.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                hello.set()
        ended.set()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, stay_silent, 0, host="127.0.0.1"))
        endpoint = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        tls = ssl.create_default_context()
        async with open_gateway((endpoint,), answer_s=answer_s, tls=tls) as gateway:
            await ask(gateway, hello)
            with trio.fail_after(10):
                await ended.wait()
        nursery.cancel_scope.cancel()
