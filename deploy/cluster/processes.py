"""The processes of the cluster: started in stages, listened to, missed when they die, stopped in order.

    run_stages
     |- one reader per process       its lines, with its name before them
     `- one watcher per process      says when it ends unasked

Rules
1. A stage is started when all of the one before is ready; one that does not get ready ends the cluster.
2. A part that ends by itself later is reported, and the others go on without it.
3. The stop goes backwards stage by stage: SIGTERM, and SIGKILL for what is still there 8 s later.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from subprocess import PIPE, STDOUT
from typing import Final

import trio

from deploy.cluster.plan import DRAIN_S, Part

START_WITHIN_S: Final = 30.0
STOP_WITHIN_S: Final = DRAIN_S + 3.0
ASK_EVERY_S: Final = 0.1
ASK_WITHIN_S: Final = 2.0
READ_ON_FOR_S: Final = 1.0
LONGEST_LINE_BYTES: Final = 64 * 1024
CLEAN_ENDS: Final = (0, -signal.SIGTERM)  # etcd ends by the signal that it was asked with

Say = Callable[[str], None]


class PartFailed(Exception):
    """A part does not get ready; the text says which, and why."""


class _Running:
    """One process of the cluster.  Owned by `run_stages`."""

    def __init__(self, part: Part, process: trio.Process, say: Say) -> None:
        self.part = part
        self.process = process
        self.is_asked_to_stop = False
        self.is_clean = True
        self.ended = trio.Event()
        self._say = say

    @property
    def outcome(self) -> str:
        code = self.process.returncode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    async def watch(self) -> None:
        """Wait for the end, and report one that nobody has asked for."""
        await self.process.wait()
        self.ended.set()
        if not self.is_asked_to_stop or self.process.returncode not in CLEAN_ENDS:
            self.is_clean = False
            self._say(
                f"{self.part.name} has ended{'' if self.is_asked_to_stop else ' by itself'}: {self.outcome}"
            )

    async def read(self) -> None:
        """Pass on its lines; one that is too long comes in pieces."""
        assert self.process.stdout is not None  # noqa: S101  opened as a pipe below
        rest = b""
        async with self.process.stdout as output:
            async for chunk in output:
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LONGEST_LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._say(f"{self.part.name:<8}| {line.decode(errors='replace')}")

    async def wait_ready(self, stop: trio.Event) -> None:
        """Ask until it is ready, or `stop` is set.

        Raises:
            PartFailed: it has ended, or is not ready in time.
        """
        answer = "nothing asked yet"
        with trio.move_on_after(START_WITHIN_S):
            while not self.ended.is_set():
                is_ready, answer = await ask(self.part)
                if is_ready or stop.is_set():
                    return
                with trio.move_on_after(ASK_EVERY_S):
                    await self.ended.wait()
        if self.ended.is_set():
            raise PartFailed(f"{self.part.name} has ended before it was ready: {self.outcome}")
        raise PartFailed(f"{self.part.name} is not ready after {START_WITHIN_S:g} s: {answer}")

    def stop(self) -> None:
        """Ask it to end."""
        self.is_asked_to_stop = True
        self.process.terminate()  # does nothing to one that has ended

    async def kill(self) -> None:
        """End it with all that it has started, and wait for that."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await self.process.wait()


async def ask(part: Part) -> tuple[bool, str]:
    """Return whether a part is ready, and what it has answered."""
    host, _, port = part.address.rpartition(":")
    answer = b""
    try:
        with trio.fail_after(ASK_WITHIN_S):
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                if not part.has_readyz:
                    return True, "connected"
                request = f"GET /readyz HTTP/1.1\r\nHost: {part.address}\r\nConnection: close\r\n\r\n"
                await stream.send_all(request.encode())
                async for chunk in stream:
                    answer += chunk
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
        return False, str(exc) or type(exc).__name__
    head, _, body = answer.partition(b"\r\n\r\n")
    return b" 200 " in head.split(b"\r\n")[0], body.decode(errors="replace")


async def run_stages(
    stages: Sequence[Iterable[Part]],
    say: Say,
    all_ready: Callable[[], None],
    stop: trio.Event,
    *,
    on_start: Callable[[Part, int], None] = lambda *_: None,
) -> bool:
    """Start everything, wait for `stop`, stop everything.

    Cancelling it kills what is running and leaves nothing.

    Args:
        stages: what is started together, in this order.
        say: takes one line at a time.
        all_ready: called once everything is.
        stop: set by whoever wants an end.
        on_start: called with each part and its process id.

    Returns:
        Whether no part has ended by itself, failed or had to be killed.

    Raises:
        PartFailed: a part does not get ready; everything has been stopped.
    """
    running: list[_Running] = []
    failure: PartFailed | None = None
    async with trio.open_nursery() as nursery:
        try:
            try:
                await _start_all(stages, running, say, stop, nursery, on_start)
            except PartFailed as exc:
                failure = exc
            else:
                if not stop.is_set():
                    all_ready()
                await stop.wait()
            await _stop_all(stages, running, say)
        finally:
            for one in running:
                await one.kill()
            # Whoever else holds a pipe open holds nobody up.
            nursery.cancel_scope.deadline = trio.current_time() + READ_ON_FOR_S
    if failure is not None:
        raise failure
    return all(one.is_clean for one in running)


async def _start_all(
    stages: Sequence[Iterable[Part]],
    running: list[_Running],
    say: Say,
    stop: trio.Event,
    nursery: trio.Nursery,
    on_start: Callable[[Part, int], None],
) -> None:
    for stage in stages:
        if stop.is_set():
            return
        started = [await _start(part, say, nursery, running) for part in stage]
        for one in started:
            on_start(one.part, one.process.pid)
        for one in started:
            await one.wait_ready(stop)


async def _start(part: Part, say: Say, nursery: trio.Nursery, running: list[_Running]) -> _Running:
    # A session of its own: Ctrl-C in a terminal goes to us alone, and we stop the parts in order.
    with trio.CancelScope(shield=True):  # no process without an owner
        process = await trio.lowlevel.open_process(
            part.command,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
            env={**os.environ, **part.environ},
        )
    one = _Running(part, process, say)
    running.append(one)
    nursery.start_soon(one.watch)
    nursery.start_soon(one.read)
    return one


async def _stop_all(stages: Sequence[Iterable[Part]], running: list[_Running], say: Say) -> None:
    for stage in reversed(stages):
        names = {part.name for part in stage}
        stopping = [one for one in running if one.part.name in names and not one.ended.is_set()]
        for one in stopping:
            one.stop()
        with trio.move_on_after(STOP_WITHIN_S):
            for one in stopping:
                await one.ended.wait()
        for one in stopping:
            if not one.ended.is_set():
                say(f"{one.part.name} does not stop within {STOP_WITHIN_S:g} s and is killed")
                await one.kill()
