"""Questions over HTTP to somebody who is broken."""

from __future__ import annotations

import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import pytest
import trio

from runtime.asking import AnswerTooLarge, open_answer, read_whole

pytestmark = pytest.mark.usefixtures("no_leaks")

Talk = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_help_from_the_collector() -> Iterator[None]:
    """The socket is to be closed at once, not when the collector happens to come by."""
    gc.disable()
    yield
    gc.enable()


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        timeout=None, trust_env=False, verify=ssl.create_default_context()
    ) as client:
        yield client


async def ask(
    client: httpx2.AsyncClient, url: str, *, deadline_s: float = 60.0, most_bytes: int = 10
) -> bytes:
    async with open_answer(client, client.build_request("GET", url), deadline_s) as (_, pieces):
        return await read_whole(pieces, most_bytes)


async def asked_until_its_deadline(url: str, hello: trio.Event) -> None:
    async with open_client() as client:
        with pytest.raises(trio.TooSlowError):
            await ask(client, url, deadline_s=0.05)


async def asked_until_cancelled(url: str, hello: trio.Event) -> None:
    async with open_client() as client:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, client, url)
                await hello.wait()
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("give_up", [asked_until_its_deadline, asked_until_cancelled])
async def test_silent_peer_sees_the_end_of_a_handshake_that_is_given_up(
    give_up: Callable[[str, trio.Event], Awaitable[None]],
) -> None:
    """httpcore closes the socket of a TLS handshake that fails, but not of one that is cancelled."""
    hello = trio.Event()
    ended = trio.Event()

    async def stay_silent(stream: trio.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                hello.set()
        ended.set()

    async with listening(stay_silent) as address:
        await give_up(f"https://{address}", hello)
        with trio.fail_after(10):
            await ended.wait()


def answering(body: bytes, *, again: bool = False) -> Talk:
    """Answer anything with `body`, over and over where it should have no end."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            head = b"" if again else b"Content-Length: %d\r\n" % len(body)
            try:
                await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n%b\r\n" % head + body)
                while again:
                    await stream.send_all(body)
            except trio.BrokenResourceError:
                return

    return answer


async def test_whole_answer_is_read() -> None:
    async with listening(answering(b"0123456789")) as address, open_client() as client:
        assert await ask(client, f"http://{address}") == b"0123456789"


@pytest.mark.parametrize("again", [False, True])
async def test_answer_is_read_up_to_its_bound_and_no_further(again: bool) -> None:
    async with listening(answering(b"01234567890", again=again)) as address, open_client() as client:
        with pytest.raises(AnswerTooLarge, match="over 10 bytes"):
            await ask(client, f"http://{address}")


async def test_connection_is_closed_when_only_the_head_was_wanted() -> None:
    async with listening(answering(b"x", again=True)) as address, open_client() as client:
        request = client.build_request("GET", f"http://{address}")
        async with open_answer(client, request, 60.0) as (response, _):
            assert response.status_code == 200
