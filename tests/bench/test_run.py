from __future__ import annotations

import os
import sys
import time

import pytest
import trio

from bench.figures import figures_of
from bench.plan import Load, Target
from bench.result import Sample
from bench.run import Coordinator, GeneratorFailed, NobodyIn
from schema.envelope import PackageType, Request
from tests.bench.running import TOKENS
from tests.clients.fake_server import FakeServer, Member, open_fake_server

pytestmark = pytest.mark.usefixtures("no_leaks")

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # in which the kernel counts CPU time


async def test_two_processes_share_one_load_and_the_server_is_watched() -> None:
    seen: list[tuple[str, Sample]] = []
    load = Load(workload="fanout", connections=8, rooms=2, rate=40.0, ramp_s=0.1, duration_s=0.6)
    with trio.fail_after(30):
        async with open_fake_server() as server:
            target = Target(url=server.room_url, tokens=TOKENS)
            watch = lambda phase, _, sample: seen.append((phase, sample))  # noqa: E731
            result = await Coordinator(target, load, [os.getpid()], watch).run(2, None)
    figures = {figure.key: figure.value for figure in figures_of(result)}
    assert result.opened.count("connections") == 8
    assert len(result.total.busy) == 2
    assert figures["lost"] == figures["duplicates"] == figures["late"] == 0
    assert figures["cpu_us"] > 1
    assert figures["rss_mb"] > 1
    assert {phase for phase, _ in seen} >= {"measuring"}
    assert result.samples[-1].signed_in == 8
    assert result.samples[-1].at_s >= 0.7


async def test_generator_that_cannot_carry_out_its_plan_says_why() -> None:
    load = Load(workload="idle", connections=10**6)
    with pytest.raises(GeneratorFailed, match="open files leaves"):
        await Coordinator(Target(url="ws://127.0.0.1:9/room"), load, [], lambda *_: None).run(1, None)


async def test_load_that_nobody_is_in_for_is_not_carried_out() -> None:
    load = Load(workload="heartbeat", connections=3, rate=10.0, duration_s=60.0)
    with trio.fail_after(20):
        async with open_fake_server() as server:
            target = Target(url=server.room_url, tokens=("no such token",))
            with pytest.raises(NobodyIn, match="none of 3 clients could sign in: 3 x not signed in: 100 "):
                await Coordinator(target, load, [], lambda *_: None).run(1, None)


async def test_cancelled_run_leaves_no_process() -> None:
    load = Load(workload="idle", connections=1, duration_s=60.0)
    async with open_fake_server() as server:
        with trio.move_on_after(1) as scope:
            await Coordinator(Target(url=server.room_url, tokens=TOKENS), load, [], lambda *_: None).run(
                1, None
            )
        assert scope.cancelled_caught
        await server.wait_for_members(0)


async def test_server_that_ends_under_its_load_does_not_take_the_figures_with_it() -> None:
    watched = await trio.lowlevel.open_process([sys.executable, "-c", "import time; time.sleep(60)"])

    def watch(phase: str, _: float, sample: Sample) -> None:
        if phase == "measuring":
            watched.kill()

    load = Load(workload="heartbeat", connections=2, rate=50.0, ramp_s=0.1, duration_s=1.5)
    try:
        with trio.fail_after(30):
            async with open_fake_server() as server:
                target = Target(url=server.room_url, tokens=TOKENS)
                result = await Coordinator(target, load, [watched.pid], watch).run(1, None)
    finally:
        watched.kill()
        await watched.wait()
    assert result.server is not None
    assert str(watched.pid) in result.server.gone
    # A generator that does not get its core sends less, but never more than was due.
    assert 38 <= result.total.count("units") <= 80


async def test_cpu_of_a_storm_is_taken_from_its_moment_until_it_is_over() -> None:
    # The server takes longer than the window: the sign-ins after it counted, and their CPU did not.
    class Slow(FakeServer):
        async def answer_request(self, member: Member, request: Request) -> None:
            if request.type == PackageType.SIGN_IN:
                await trio.sleep(1.0)
                began = time.process_time_ns()
                while time.process_time_ns() - began < 20_000_000:
                    pass
            await super().answer_request(member, request)

    load = Load(workload="storm", connections=10, ramp_s=0.1, duration_s=0.6, drain_s=5.0)
    with trio.fail_after(30):
        async with open_fake_server(Slow()) as server:
            target = Target(url=server.room_url, tokens=TOKENS)
            result = await Coordinator(target, load, [os.getpid()], lambda *_: None).run(1, None)
    assert result.server is not None
    assert result.total.count("units") == 10
    assert result.server.measured.cpu_ns >= 10 * 20_000_000 - 2 * TICK_NS
    assert result.server.measured.wall_ns > 1e9
    assert result.server.measured.wall_ns == pytest.approx(result.total.count("storm_ns"), abs=100_000_000)
