"""`make demo`: the whole system, three clients in two rooms, and who received what and when."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import httpx2
import trio

from clients.python import Client, open_client
from runtime.lifecycle import Drain
from runtime.logs import open_logs
from runtime.settings import load
from schema.message import Level
from standalone.app import Standalone, serve
from standalone.settings import StandaloneSettings

SCRIPT_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One message as one client received it, `at_s` seconds after the demo's start."""

    at_s: float
    listener: str
    room: str
    sender: str
    level: Level
    text: str


class Transcript:
    """What everybody said and heard; prints as it goes."""

    def __init__(self) -> None:
        self._start = trio.current_time()
        self.heard: list[Heard] = []
        self._changed = trio.Event()

    def say(self, text: str) -> None:
        """Print one line of what is done."""
        print(f"{self._now():6.3f} s  {text}")

    async def listen(self, name: str, client: Client) -> None:
        """Note down all that `client` receives, until cancelled."""
        async for message in client.messages():
            text = message.data.decode()
            heard = Heard(self._now(), name, message.room, message.sender, message.level, text)
            self.heard.append(heard)
            mark = " !" if heard.level is Level.IMPORTANT else "  "
            self.say(f"   {name:>4} in {heard.room:<6}{mark} {heard.sender}: {heard.text}")
            self._changed.set()
            self._changed = trio.Event()

    async def wait_for(self, listener: str, text: str) -> None:
        """Wait until `listener` has heard `text`; the demo's deadline bounds it."""
        while not any(h.listener == listener and h.text == text for h in self.heard):
            await self._changed.wait()

    def _now(self) -> float:
        return trio.current_time() - self._start


async def play(http: str, websocket: str) -> Transcript:
    """Let ann and bob talk in the lobby, cat in the cellar, and a back end push to both.

    Raises:
        trio.TooSlowError: something was not received within 30 s.
    """
    transcript = Transcript()
    with trio.fail_after(SCRIPT_DEADLINE_S):
        async with httpx2.AsyncClient(base_url=http) as backend, trio.open_nursery() as nursery:
            tokens = {name: await fetch_token(backend, name) for name in ("ann", "bob", "cat", "shop")}
            async with (
                open_client(websocket, token=tokens["ann"], room="lobby") as ann,
                open_client(websocket, token=tokens["bob"], room="lobby") as bob,
                open_client(websocket, token=tokens["cat"], room="cellar") as cat,
            ):
                for name, client in (("ann", ann), ("bob", bob), ("cat", cat)):
                    nursery.start_soon(transcript.listen, name, client)
                members = await bob.members()
                transcript.say(f"ann and bob are in the lobby ({members} members), cat in the cellar")
                transcript.say("ann says hello, then three things in a row: they arrive merged")
                await ann.publish(b"hello")
                for text in (b"one", b"two", b"three"):
                    await ann.publish(text)
                transcript.say("bob says something IMPORTANT: it does not wait, and does not overtake")
                await bob.publish(b"fire drill at noon", Level.IMPORTANT)
                transcript.say("cat talks to herself")
                await cat.publish(b"anybody here?")
                for room in ("lobby", "cellar"):
                    transcript.say(f"the shop's back end posts to /msg for the {room}")
                    await post_message(backend, tokens["shop"], room, "closing in 5 minutes")
                for listener in ("ann", "bob", "cat"):
                    await transcript.wait_for(listener, json.dumps("closing in 5 minutes"))
                nursery.cancel_scope.cancel()
    return transcript


async def fetch_token(backend: httpx2.AsyncClient, uid: str) -> str:
    """Have the all-in-one make a token for `uid`."""
    answer = (await backend.post("/tk", data={"uid": uid})).raise_for_status().json()
    return str(answer["data"])


async def post_message(backend: httpx2.AsyncClient, token: str, room: str, text: str) -> None:
    """Push `text` to `room` as a back end does."""
    response = await backend.post(
        "/msg", data={"room_id": room, "msg": text}, headers={"Authorization": f"Bearer {token}"}
    )
    if response.raise_for_status().json()["code"] != 1:
        raise SystemExit(f"/msg was refused: {response.text}")


def summary(heard: list[Heard]) -> str:
    """Return who heard what, one line each."""
    rows = (
        f"  {name}: " + ", ".join(h.text for h in heard if h.listener == name)
        for name in ("ann", "bob", "cat")
    )
    return "\n".join(["received, in this order:", *rows])


async def run_demo() -> None:
    """Serve on free ports of loopback, play the script, drain."""
    overrides = {
        "conn.websocket.bind": "127.0.0.1:0",
        "conn.admin.bind": "127.0.0.1:0",
        "log.level": "warning",
    }
    settings = load(StandaloneSettings, None, {}, overrides).settings
    drain = Drain(settings.drain.timeout_s)
    with open_logs(settings.log, sys.stderr) as logs:
        async with trio.open_nursery() as nursery:
            system: Standalone = await nursery.start(serve, settings, drain, logs.logger)
            transcript = await play(system.http_url, system.websocket_url)
            print(summary(transcript.heard))
            drain.start()


if __name__ == "__main__":
    sys.exit(trio.run(run_demo))
