"""A call's waits end by its deadline, by its end, or by whoever cancels: told apart."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from grpclib.exceptions import GRPCError
from grpclib.metadata import Deadline

from runtime.rpc.errors import RpcError, Status, unavailable
from runtime.rpc.waiting import CallScope, Flag


async def test_flag_wakes_all_and_can_be_taken_back() -> None:
    flag, woken = Flag(), []

    async def wait(name: str) -> None:
        await flag.wait()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "a")
        nursery.start_soon(wait, "b")
        await trio.testing.wait_all_tasks_blocked()
        flag.set()
    assert sorted(woken) == ["a", "b"]
    await flag.wait()
    flag.clear()
    assert not flag.is_set()
    with trio.move_on_after(0.01) as scope:
        await flag.wait()
    assert scope.cancelled_caught


async def test_end_of_a_call_ends_every_task_that_waits_in_it() -> None:
    """Sender and receiver of one call wait at the same time, and leave in any order."""
    call, ended = CallScope(), []

    async def wait(name: str) -> None:
        with pytest.raises(RpcError) as caught, call:
            await trio.sleep_forever()
        ended.append((name, caught.value.status))

    async with trio.open_nursery() as nursery:
        for name in ("sender", "receiver"):
            nursery.start_soon(wait, name)
            await trio.testing.wait_all_tasks_blocked()
        with call:
            pass
        call.cancel(unavailable("lost"))
        call.cancel(RpcError(Status.INTERNAL, "not the first"))
    assert sorted(ended) == [("receiver", Status.UNAVAILABLE), ("sender", Status.UNAVAILABLE)]
    with pytest.raises(RpcError):
        call.check()
    with pytest.raises(RpcError), call:
        raise AssertionError("not entered")


async def test_deadline_is_one_error_waiting_or_not() -> None:
    call = CallScope(Deadline.from_timeout(0.02))
    call.check()
    with pytest.raises(RpcError) as caught, call:
        await trio.sleep(1)
    assert caught.value.status is Status.DEADLINE_EXCEEDED
    late = CallScope(Deadline.from_timeout(0))
    with pytest.raises(RpcError):
        late.check()


async def test_cancellation_from_outside_stays_one() -> None:
    call = CallScope(Deadline.from_timeout(10))
    with trio.CancelScope() as outer, call:
        outer.cancel()
        call.cancel(unavailable("at the same moment"))
        await trio.sleep(1)
    assert outer.cancelled_caught


async def test_errors_of_others_pass_and_grpc_errors_get_their_name() -> None:
    call = CallScope()
    with pytest.raises(KeyError), call:
        raise KeyError("the caller's own")
    with pytest.raises(RpcError) as caught, call:
        raise GRPCError(Status.NOT_FOUND, "text")
    assert (caught.value.status, caught.value.text) == (Status.NOT_FOUND, "text")
