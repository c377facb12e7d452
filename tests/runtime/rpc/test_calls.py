"""Unary and streamed calls both ways: what arrives, what fails, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from runtime.rpc.calls import encode_timeout
from runtime.rpc.channel import Channel
from runtime.rpc.errors import RpcError, Status
from runtime.rpc.limits import RpcLimits
from tests.runtime.rpc.probe import LIMITS, Probe, probing, until
from tests.runtime.rpc.probe_grpc import ProbeStub
from tests.runtime.rpc.probe_pb2 import Ask

pytestmark = pytest.mark.usefixtures("no_leaks")

MIB = 1 << 20


async def failure_of(call: Callable[[], Awaitable[object]]) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await call()
    return caught.value


async def test_unary_call_is_answered_and_counted_at_both_ends() -> None:
    async with probing() as (_, server, channel):
        answer = await ProbeStub(channel).Echo(Ask(id=7, body=b"x"))
        assert (answer.id, answer.body) == (7, b"x")
        await until(lambda: server.statistics().in_flight == 0)
        for statistics in (server.statistics(), channel.statistics()):
            assert statistics.calls == {("/probe.Probe/Echo", "OK"): 1}
            assert statistics.in_flight == 0
            assert statistics.connections == 1
            assert statistics.sent_bytes > 0
            assert statistics.received_bytes > 0


async def test_server_streams_in_order() -> None:
    async with probing() as (_, _, channel), ProbeStub(channel).Down.open() as stream:
        await stream.send_message(Ask(count=500, body=b"abc"))
        assert [answer.id async for answer in stream] == list(range(500))


async def test_client_streams_and_is_answered_once() -> None:
    async with probing() as (_, _, channel):
        answer = await ProbeStub(channel).Up([Ask(body=b"12345")] * 200)
        assert answer.id == 1000


async def test_both_stream_in_turns_and_the_half_close_ends_the_call() -> None:
    async with probing() as (probe, _, channel), ProbeStub(channel).Chat.open() as stream:
        for number in range(50):
            await stream.send_message(Ask(id=number))
            answer = await stream.recv_message()
            assert answer is not None
            assert answer.id == number
        await stream.end()
        assert await stream.recv_message() is None
        assert probe.finished == [-1]


async def test_one_task_sends_while_another_receives() -> None:
    async with probing() as (_, _, channel), ProbeStub(channel).Chat.open() as stream:
        got = []

        async def receive() -> None:
            got.extend([answer.id async for answer in stream])

        async with trio.open_nursery() as nursery:
            await stream.send_request()
            nursery.start_soon(receive)
            for number in range(1000):
                await stream.send_message(Ask(id=number, body=b"x" * 100))
            await stream.end()
        assert got == list(range(1000))


async def test_refusal_of_a_handler_comes_with_its_status_and_text() -> None:
    async with probing() as (_, _, channel):
        error = await failure_of(lambda: ProbeStub(channel).Echo(Ask(wish="refuse")))
        assert (error.status, error.text) == (Status.NOT_FOUND, "没有")


async def test_refusal_raised_in_a_nursery_of_the_handler_is_unwrapped() -> None:
    async with probing() as (_, _, channel):
        error = await failure_of(lambda: ProbeStub(channel).Echo(Ask(wish="refuse in a nursery")))
        assert (error.status, error.text) == (Status.ABORTED, "from a nursery")


async def test_bug_in_a_handler_is_unknown_and_the_server_goes_on() -> None:
    async with probing() as (_, server, channel):
        stub = ProbeStub(channel)
        assert (await failure_of(lambda: stub.Echo(Ask(wish="fail")))).status is Status.UNKNOWN
        assert (await stub.Echo(Ask(id=1))).id == 1
        assert server.statistics().failures == {"handler failed": 1}


async def test_handler_that_answers_ok_without_a_message_is_an_error() -> None:
    async with probing() as (_, _, channel):
        error = await failure_of(lambda: ProbeStub(channel).Echo(Ask(wish="say nothing")))
        assert error.status in (Status.INTERNAL, Status.UNKNOWN)


async def test_receiver_of_a_stream_gets_the_status_after_the_messages() -> None:
    async with probing() as (_, _, channel), ProbeStub(channel).Down.open() as stream:
        await stream.send_message(Ask(count=3, wish="refuse"))
        for number in range(3):
            answer = await stream.recv_message()
            assert answer is not None
            assert answer.id == number
        assert (await failure_of(stream.recv_message)).status is Status.NOT_FOUND


async def test_sender_learns_that_the_handler_has_failed() -> None:
    async with probing() as (_, _, channel):
        error = await failure_of(lambda: ProbeStub(channel).Up([Ask(wish="refuse")] + [Ask()] * 20))
        assert error.status is Status.NOT_FOUND


async def test_unknown_method_is_unimplemented_and_its_name_is_not_kept() -> None:
    async with probing() as (_, server, channel):
        stub = ProbeStub(channel)
        stub.Echo.name = "/probe.Probe/Nothing"
        assert (await failure_of(lambda: stub.Echo(Ask()))).status is Status.UNIMPLEMENTED
        await until(lambda: bool(server.statistics().calls))
        assert server.statistics().calls == {("(unknown)", "UNIMPLEMENTED"): 1}


async def test_three_megabytes_pass_and_five_are_refused_in_both_directions() -> None:
    async with probing() as (_, _, channel):
        stub = ProbeStub(channel)
        assert len((await stub.Echo(Ask(body=b"x" * (3 * MIB)))).body) == 3 * MIB
        error = await failure_of(lambda: stub.Echo(Ask(body=b"x" * (5 * MIB))))
        assert error.status is Status.RESOURCE_EXHAUSTED

    async with probing(limits=RpcLimits(receive_limit_bytes=8 * MIB)) as (_, server, _):
        from runtime.rpc.channel import open_channel

        async with open_channel(server.addresses[0], limits=LIMITS) as narrow:
            call = ProbeStub(narrow).Echo
            error = await failure_of(lambda: call(Ask(body=b"x" * (5 * MIB))))
            assert error.status is Status.RESOURCE_EXHAUSTED
            assert (await call(Ask(id=2))).id == 2


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_slow_reader_stops_the_writer_at_the_window(direction: str) -> None:
    """What is under way is bounded by the stream's window and the water mark, not by the writer's zeal."""
    size, count = 100_000, 100
    async with probing() as (probe, _, channel):
        stub = ProbeStub(channel)
        if direction == "down":
            async with stub.Down.open() as stream:
                await stream.send_message(Ask(count=count, body=b"x" * size))
                await stream.recv_message()
                await trio.sleep(0.2)
                bound = LIMITS.stream_window_bytes + 2 * LIMITS.high_water_bytes
                assert len(probe.finished) * size <= bound
                assert len([answer async for answer in stream]) == count - 1
        else:
            async with stub.Up.open() as up:
                await up.send_message(Ask(sleep_s=0.3))
                sent = 0
                with trio.move_on_after(0.2):
                    while True:
                        await up.send_message(Ask(body=b"x" * size))
                        sent += size
                assert size < sent <= LIMITS.stream_window_bytes + 2 * LIMITS.high_water_bytes


async def test_slow_reader_of_one_call_does_not_stop_its_neighbours() -> None:
    async with probing() as (_, _, channel):
        stub = ProbeStub(channel)
        async with stub.Down.open() as stream:
            await stream.send_message(Ask(count=100, body=b"x" * 100_000))
            await stream.recv_message()
            with trio.fail_after(10):
                for number in range(20):
                    assert (await stub.Echo(Ask(id=number, body=b"y" * 10_000))).id == number


async def test_local_deadline_and_server_deadline_are_one_error() -> None:
    async with probing() as (probe, _, channel):
        stub = ProbeStub(channel)

        async def call() -> None:
            # Long enough for the call to begin on a busy machine.
            error = await failure_of(lambda: stub.Echo(Ask(id=1, sleep_s=30), timeout=1.0))
            assert error.status is Status.DEADLINE_EXCEEDED

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(call)
        await until(lambda: len(probe.cancelled) == 10)
        assert all(left is not None and left < 1.01 for left in probe.deadlines_s)
        assert (await stub.Echo(Ask(id=2))).id == 2


async def test_server_that_notices_the_deadline_first_says_the_same() -> None:
    async with probing() as (_, _, channel):
        stub = ProbeStub(channel)
        call = stub.Echo.open(timeout=0.05)
        # Only the server keeps the time.
        call.local_deadline = None  # type: ignore[attr-defined]

        async def run() -> None:
            async with call as stream:
                await stream.send_message(Ask(sleep_s=30))
                await stream.recv_message()

        with trio.fail_after(10):
            assert (await failure_of(run)).status is Status.DEADLINE_EXCEEDED


async def test_trio_deadline_travels_to_the_server_and_ends_as_a_cancellation() -> None:
    async with probing() as (probe, _, channel):

        async def call(number: int) -> None:
            # Long enough for the call to begin on a busy machine.
            with trio.move_on_after(1.0) as scope:
                await ProbeStub(channel).Echo(Ask(id=number, sleep_s=30))
            assert scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(call, number)
        await until(lambda: sorted(probe.cancelled) == [0, 1, 2])
        assert all(left is not None and left < 1.15 for left in probe.deadlines_s)


async def test_unary_call_without_a_deadline_gets_one() -> None:
    async with probing(limits=RpcLimits(call_s=0.1)) as (_, _, channel):
        error = await failure_of(lambda: ProbeStub(channel).Echo(Ask(sleep_s=30)))
        assert error.status is Status.DEADLINE_EXCEEDED


async def test_stream_ends_at_its_deadline_in_mid_iteration() -> None:
    async with probing() as (_, _, channel):

        async def run() -> None:
            async with ProbeStub(channel).Down.open(timeout=0.1) as stream:
                await stream.send_message(Ask(count=3, sleep_s=30))
                async for _ in stream:
                    pass

        assert (await failure_of(run)).status is Status.DEADLINE_EXCEEDED


async def test_cancelled_calls_are_cancelled_at_the_server() -> None:
    async with probing() as (probe, server, channel):
        stub = ProbeStub(channel)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(stub.Echo, Ask(id=number, sleep_s=30))
            await until(lambda: server.statistics().in_flight == 20)
            nursery.cancel_scope.cancel()
        await until(lambda: server.statistics().in_flight == 0)
        assert sorted(probe.cancelled) == list(range(20))
        assert channel.statistics().calls == {("/probe.Probe/Echo", "CANCELLED"): 20}
        assert (await stub.Echo(Ask(id=5))).id == 5
        assert channel.statistics().reconnects == 0


async def test_leaving_the_block_early_gives_the_call_up() -> None:
    async with probing() as (probe, server, channel):
        async with ProbeStub(channel).Down.open() as stream:
            await stream.send_message(Ask(id=9, count=1, sleep_s=30))
            await stream.recv_message()
        await until(lambda: probe.cancelled == [9, 9])
        async with ProbeStub(channel).Chat.open() as chat:
            await chat.send_message(Ask(id=1))
        await until(lambda: server.statistics().in_flight == 0)


async def test_error_of_the_callers_own_block_comes_out_as_it_is() -> None:
    async with probing() as (_, server, channel):

        async def run() -> None:
            async with ProbeStub(channel).Chat.open() as stream:
                await stream.send_message(Ask(id=1))
                raise FileNotFoundError("the caller's own")

        with pytest.raises(FileNotFoundError):
            await run()
        await until(lambda: server.statistics().in_flight == 0)


async def test_call_given_up_by_another_task_ends_who_waits() -> None:
    async with probing() as (_, _, channel), ProbeStub(channel).Chat.open() as stream:
        await stream.send_message(Ask(id=1))
        await stream.recv_message()
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                error = await failure_of(stream.recv_message)
                assert error.status is Status.CANCELLED

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await stream.cancel()


async def test_send_cancelled_half_way_resets_the_call_and_keeps_the_connection() -> None:
    async with probing() as (_, _, channel):
        stub = ProbeStub(channel)
        async with stub.Up.open() as stream:
            await stream.send_message(Ask(sleep_s=0.3))
            with trio.move_on_after(0.1) as scope:
                await stream.send_message(Ask(body=b"x" * (3 * MIB)))
            assert scope.cancelled_caught
            with pytest.raises(RpcError):
                await stream.send_message(Ask())
        assert (await stub.Echo(Ask(id=3))).id == 3


async def test_more_calls_than_the_server_takes_at_once_queue_up() -> None:
    async with probing(limits=RpcLimits(concurrent_calls=5)) as (_, server, channel):
        answered = []

        async def call(number: int) -> None:
            answered.append((await ProbeStub(channel).Echo(Ask(id=number, sleep_s=0.01))).id)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(call, number)
        assert sorted(answered) == list(range(60))
        assert server.statistics().connected == 1


async def test_endless_producer_lets_others_run() -> None:
    async with probing(service=Probe()) as (_, _, channel), ProbeStub(channel).Up.open() as stream:
        with trio.move_on_after(0.1) as scope:
            while True:
                await stream.send_message(Ask())
        assert scope.cancelled_caught


async def test_metadata_travels_with_the_request() -> None:
    class Curious(Probe):
        seen: dict[str, object]

        async def Echo(self, stream):  # type: ignore[no-untyped-def]  # noqa: N802
            self.seen = dict(stream.metadata)
            await super().Echo(stream)

    probe = Curious()
    metadata: dict[str, str | bytes] = {"node": "a", "key-bin": b"\x00\xff"}
    async with probing(service=probe) as (_, _, channel):
        await ProbeStub(channel).Echo(Ask(), metadata=metadata)
        assert probe.seen == metadata


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(10.9, "10900m"), (0.0001, "1m"), (-1, "1m"), (1e6, "1000000S"), (1e12, "99999999S")],
)
def test_timeout_is_told_to_the_millisecond_and_never_cut(seconds: float, text: str) -> None:
    assert encode_timeout(seconds) == text


async def test_channel_is_an_ordinary_one_for_generated_stubs() -> None:
    async with probing() as (_, _, channel):
        assert isinstance(channel, Channel)
        assert "127.0.0.1" in repr(channel)
