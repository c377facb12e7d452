"""nsqlookupd, answering, dead and talking nonsense."""

from __future__ import annotations

import gc
import shutil
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from runtime.queue.nsq import NsqOptions, NsqQueue, lookup as nsq_lookup
from runtime.queue.nsq.lookup import Lookup
from tests.ports import free_port
from tests.runtime.queue.nsq.daemons import (
    Daemon,
    Flags,
    numbers,
    open_http,
    open_lookupd,
    open_nsqd,
    until,
)

pytestmark = pytest.mark.usefixtures("no_leaks")


async def first_answer(*lookupd: str) -> tuple[set[str], bool, dict[str, int]]:
    """Return what one round of questions finds."""
    lookup = Lookup(lookupd, "chat_room", 60)
    answers: list[tuple[set[str], bool]] = []
    with trio.fail_after(10), trio.CancelScope() as scope:

        def on_found(found: frozenset[str], complete: bool) -> None:
            answers.append((set(found), complete))
            scope.cancel()

        await lookup.run(on_found)
    return *answers[0], dict(lookup.failures)


def nodes(*addresses: tuple[str, int]) -> dict[str, Any]:
    return {
        "channels": ["c"],
        "producers": [
            {"broadcast_address": host, "tcp_port": port, "version": "1"} for host, port in addresses
        ],
    }


async def test_answers_of_several_lookupds_are_joined() -> None:
    async with open_http(nodes(("a", 1), ("b", 2))) as one, open_http(nodes(("b", 2), ("c", 3))) as two:
        found, complete, failures = await first_answer(one, f"http://{two}")
    assert (found, complete, failures) == ({"a:1", "b:2", "c:3"}, True, {})


async def test_dead_and_confused_lookupds_are_counted_and_others_believed() -> None:
    async with open_http(nodes(("a", 1))) as one, open_http(["nonsense"]) as confused:
        found, complete, failures = await first_answer(f"127.0.0.1:{free_port()}", one, confused)
    assert (found, complete) == ({"a:1"}, False)
    assert failures == {"ConnectError": 1, "ValidationError": 1}


async def test_nodes_without_a_usable_address_are_counted_and_left_out() -> None:
    """One nsqd that had registered without an address, or by no name, once ended all that asked."""
    unusable = (("", 4150), ("a", 0), ("b", -1), ("c", 70_000), ("nsqd-1..example", 1), ("x" * 64, 1))
    async with open_http(nodes(*unusable, ("::1", 5), ("d", 1))) as ask:
        found, complete, failures = await first_answer(ask)
    assert (found, complete, failures) == ({"[::1]:5", "d:1"}, True, {"bad-address": 6})


async def test_answer_without_an_end_is_given_up() -> None:
    """It was once read into memory for as long as the deadline allowed, each time."""
    node = {"broadcast_address": "a", "tcp_port": 1, "topics": ["x" * 1000]}
    async with open_http({"producers": [node] * 2000}) as flood, open_http(nodes(("a", 1))) as one:
        found, complete, failures = await first_answer(flood, one)
    assert (found, complete, failures) == ({"a:1"}, False, {"AnswerTooLarge": 1})


async def test_silent_lookupd_costs_no_file_each_time_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(nsq_lookup, "_QUESTION_DEADLINE_S", 0.05)
    ends: list[trio.Event] = []

    async def stay_silent(stream: trio.SocketStream) -> None:
        ends.append(trio.Event())
        async with stream:
            async for _ in stream:
                pass
        ends.pop().set()

    listeners = await nursery.start(partial(trio.serve_tcp, stay_silent, 0, host="127.0.0.1"))
    silent = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    gc.disable()  # not when the collector happens to come by
    try:
        for _ in range(3):
            _, complete, failures = await first_answer(silent)
            assert (complete, failures) == (False, {"TooSlowError": 1})
            await until(lambda: not ends)
    finally:
        gc.enable()
    nursery.cancel_scope.cancel()


async def hold(
    context: AbstractAsyncContextManager[Any], *, task_status: trio.TaskStatus[tuple[Any, trio.CancelScope]]
) -> None:
    """Stay in `context` until its scope is cancelled."""
    with trio.CancelScope() as scope:
        async with context as value:
            task_status.started((value, scope))
            await trio.sleep_forever()


async def consume_through(nsqd: Daemon, ask: str, lookupd: trio.CancelScope) -> None:
    """Consume what only `ask` knows of, then go on without it."""
    options = NsqOptions(nsqd=(), lookupd=(f"127.0.0.1:{free_port()}", ask), lookup_interval_s=0.05)
    async with (
        NsqQueue(NsqOptions(nsqd=(nsqd.address,))).open_producer() as producer,
        NsqQueue(options).open_consumer("chat_room", "c", max_in_flight=5) as consumer,
    ):
        consumer.resume()

        async def exchange(bodies: list[bytes]) -> None:
            await producer.publish("chat_room", bodies)
            for body in bodies:
                delivery = await consumer.receive()
                assert delivery.body == body
                delivery.finish()

        await exchange(numbers(10))
        lookupd.cancel()
        before = consumer.statistics().lookup_failures["ConnectError"]
        while consumer.statistics().lookup_failures["ConnectError"] < before + 4:
            await exchange(numbers(10))
        assert consumer.losses == 0


async def test_consumer_keeps_what_it_found_while_lookupd_is_dead(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with open_nsqd("fake", tmp_path) as nsqd, trio.open_nursery() as nursery:
            ask, lookupd = await nursery.start(hold, open_http(nodes(("127.0.0.1", nsqd.port))))
            await consume_through(nsqd, ask, lookupd)


async def test_nsqd_registers_at_nsqlookupd_and_is_found(tmp_path: Path) -> None:
    if not (shutil.which("nsqd") and shutil.which("nsqlookupd")):
        pytest.skip("no nsqd and nsqlookupd on PATH")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (register, ask), lookupd = await nursery.start(hold, open_lookupd(tmp_path))
            async with open_nsqd("real", tmp_path / "nsqd", Flags(lookupd=register)) as nsqd:
                await consume_through(nsqd, ask, lookupd)


async def test_nsqd_that_lookupd_forgets_is_forgotten_once_it_is_gone(tmp_path: Path) -> None:
    answer = nodes(("127.0.0.1", free_port()))
    async with open_http(answer) as ask:
        options = NsqOptions(nsqd=(), lookupd=(ask,), lookup_interval_s=0.05, reconnect_max_s=0.05)
        async with NsqQueue(options).open_consumer("chat_room", "c", max_in_flight=5) as consumer:
            with trio.fail_after(10):
                await until(lambda: consumer.statistics().failures.get("unreachable", 0) > 1)
                answer["producers"].clear()
                await until(lambda: consumer.statistics().nsqds == 0)
