"""The defects of the Go system, each provoked as its users did, on the whole of ours.

Two of them are inside the job worker, where no user can provoke them: FIN before delivery is in
tests/job_worker/test_consumer.py, a message to a feed that is ending in tests/job_worker/test_dispatch.py.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from functools import partial

import jwt
import pytest
import trio

from clients.python import ConnectFailed, PublishRefused, SignInRefused, open_client
from runtime.queue.memory import MemoryQueue
from schema.access import Code
from schema.message import Level
from standalone import app
from tests.standalone.running import DEADLINE_S, KEY, Running, hear, running

pytestmark = pytest.mark.usefixtures("no_leaks")


async def answer_to(system: Running, request: bytes) -> bytes:
    with trio.fail_after(DEADLINE_S):
        async with await trio.open_tcp_stream(*system.address) as stream:
            await stream.send_all(request)
            answer = b""
            async for data in stream:
                answer += data
            return answer


async def test_plain_get_of_the_websocket_path_does_not_end_the_process() -> None:
    async with running() as system, system.join("ann", "lobby") as ann:
        for path in (b"/room", b"/room?x", b"/room/"):
            request = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path
            status = (await answer_to(system, request)).split()[1]
            assert status == (b"404" if path == b"/room/" else b"400")
        await ann.publish(b"still here")
        assert [message.data for message in await hear(ann, 1)] == [b"still here"]


async def test_nobody_is_told_suc_who_has_no_place() -> None:
    places = {"conn__bucket__size": 1, "conn__bucket__conns": 2}
    async with running(**places) as system, system.join("ann", "lobby") as ann:
        async with system.join("bob", "lobby"):
            with pytest.raises(ConnectFailed, match="503"):
                async with system.join("cat", "lobby"):
                    pass
            assert await ann.members() == 2
        await system.until(lambda numbers: numbers["roomcast_admission_connections"] == 1)
        async with system.join("cat", "lobby"):
            assert await ann.members() == 2


async def test_second_sign_in_moves_the_client_and_corrupts_no_room() -> None:
    async with running() as system, system.join("ann", "lobby") as ann, system.join("bob", "lobby") as bob:
        for room in ("cellar", "lobby", "lobby", "cellar"):
            await ann.switch(room)
        assert (await ann.members(), await bob.members()) == (1, 1)
        await bob.publish(b"to the lobby")
        await ann.publish(b"to the cellar")
        assert [(message.room, message.data) for message in await hear(ann, 1)] == [
            ("cellar", b"to the cellar")
        ]
        assert [(message.room, message.data) for message in await hear(bob, 1)] == [
            ("lobby", b"to the lobby")
        ]
        numbers = await system.numbers()
        assert (numbers["roomcast_rooms_rooms"], numbers["roomcast_rooms_memberships"]) == (2, 2)


async def test_users_without_a_number_are_members_like_others_and_leave_no_ghosts() -> None:
    async with running() as system, system.join("0", "lobby") as zero:
        async with system.join("ann", "lobby") as ann, system.join("bob", "lobby") as bob:
            assert await zero.members() == 3
            await bob.publish(b"hello")
            for client in (zero, ann, bob):
                assert [(message.sender, message.data) for message in await hear(client, 1)] == [
                    ("bob", b"hello")
                ]
        await system.until(lambda numbers: numbers["roomcast_rooms_memberships"] == 1)
        assert await zero.members() == 1


async def test_message_that_the_queue_has_not_got_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MemoryQueue", partial(MemoryQueue, max_messages=1))
    settings = {"logic__nsq__publishTimeout": "200ms", "job__room__signal": "1m"}
    async with (
        running(**settings) as system,
        system.http("shop") as backend,
        system.join("ann", "lobby") as ann,
    ):
        await ann.publish(b"first")
        (first,) = await hear(ann, 1)
        await system.until(lambda numbers: numbers["roomcast_queue_messages"] == 0)
        # This one waits to be merged with others, and takes the queue's only place meanwhile.
        await ann.publish(b"second")
        with pytest.raises(PublishRefused) as caught:
            await ann.publish(b"third")
        assert caught.value.code == Code.UNAVAILABLE
        answer = await backend.post("/msg", data={"room_id": "lobby", "msg": "fourth"})
        assert answer.json()["code"] == 0
        system.drain.start()
        await ann.wait_closed()
        assert [first.data, *(message.data for message in await hear(ann, 1))] == [b"first", b"second"]
        assert ann.statistics().messages == 2


def signed(**claims: object) -> str:
    now = int(time.time())
    return jwt.encode({"uid": "7", "iat": now, "exp": now + 60, **claims}, KEY, "HS256")


async def test_algorithm_is_not_the_tokens_choice() -> None:
    header = json.dumps({"alg": "none", "typ": "JWT"}).encode()
    parts = [urlsafe_b64encode(header).rstrip(b"=").decode(), signed().split(".")[1], ""]
    stronger = jwt.encode(jwt.decode(signed(), KEY, ["HS256"]), KEY * 2, "HS512")
    async with running() as system:
        for token in (".".join(parts), stronger):
            with pytest.raises(SignInRefused, match="signature is invalid"):
                async with open_client(system.where.websocket_url, token=token, room="lobby"):
                    pass
            async with system.http() as backend:
                headers = {"Authorization": f"Bearer {token}"}
                form = {"room_id": "lobby", "msg": "hello"}
                answer = await backend.post("/msg", data=form, headers=headers)
                assert answer.json() == {"code": 1001, "msg": "请登录"}


async def test_room_is_not_the_clients_choice_alone() -> None:
    token = signed(rooms=["team-*"], important=False)
    async with running() as system:
        url = system.where.websocket_url
        with pytest.raises(SignInRefused) as refused:
            async with open_client(url, token=token, room="vault"):
                pass
        assert refused.value.code == Code.FORBIDDEN
        async with open_client(url, token=token, room="team-1") as member:
            with pytest.raises(SignInRefused):
                await member.switch("vault")
            for elsewhere in ("vault", "team-2"):
                with pytest.raises(PublishRefused) as forbidden:
                    await member.publish(b"hello", room=elsewhere)
                assert forbidden.value.code == Code.FORBIDDEN
            with pytest.raises(PublishRefused, match="IMPORTANT"):
                await member.publish(b"hello", Level.IMPORTANT)
            await member.publish(b"hello")
            assert [message.data for message in await hear(member, 1)] == [b"hello"]
