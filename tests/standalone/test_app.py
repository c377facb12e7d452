"""The whole system over real sockets: what its users, their back ends and its operator see of it."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from functools import partial
from itertools import count

import pytest
import trio

from clients.python import Client, PublishRefused, Received
from conn_server.settings import WebSocket
from conn_server.sockets import open_sockets
from runtime.queue.memory import Faults, MemoryQueue
from schema.closing import CloseCode
from schema.message import Level
from schema.proto import conn_pb2 as pb
from standalone import app
from tests.conn_server.serving import SUC, sign_in
from tests.standalone.running import DEADLINE_S, Running, crowd, hear, hear_pushes, running, token_of

pytestmark = pytest.mark.usefixtures("no_leaks")

BATCH = 20
SAID = 2


def text_of(speaker: int, number: int) -> bytes:
    return b"%d says %d" % (speaker, number)


async def speak(client: Client, speaker: int, last: Level = Level.NORMAL) -> None:
    for number in range(SAID):
        await client.publish(text_of(speaker, number), last if number == SAID - 1 else Level.NORMAL)


def check_batches(heard: list[Received]) -> None:
    """A push carries up to 20 NORMAL messages, or one IMPORTANT one."""
    sizes = Counter(message.batch for message in heard)
    assert max(sizes.values()) <= BATCH
    assert {sizes[message.batch] for message in heard if message.level is Level.IMPORTANT} <= {1}


async def test_two_hundred_clients_receive_each_message_once_and_in_one_order() -> None:
    async with running() as system, crowd(system, 200, 3) as clients, system.http("shop") as backend:
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for speaker, client in enumerate(clients):
                    # Every fifth ends with something important, which must not overtake the rest.
                    last = Level.NORMAL if speaker % 5 else Level.IMPORTANT
                    nursery.start_soon(speak, client, speaker, last)
                for room in range(3):
                    form = {"room_id": f"room {room}", "msg": f"for {room}"}
                    assert (await backend.post("/msg", data=form)).json()["code"] == 1
        for room in range(3):
            speakers = range(room, 200, 3)
            wanted = [text_of(speaker, number) for speaker in speakers for number in range(SAID)]
            wanted.append(b'"for %d"' % room)
            orders = set()
            for client in clients[room::3]:
                heard = await hear(client, len(wanted))
                check_batches(heard)
                assert {message.room for message in heard} == {f"room {room}"}
                orders.add(tuple((message.data, message.level, message.sender) for message in heard))
            (order,) = orders
            assert Counter(data for data, _, _ in order) == Counter(wanted)
            for speaker in speakers:
                own = [data for data, _, sender in order if sender == f"user {speaker}"]
                assert own == [text_of(speaker, number) for number in range(SAID)]
        assert all(client.statistics().buffered == 0 for client in clients)
        assert await clients[0].members() == 67
        assert await clients[2].members() == 66


async def wander(system: Running, user: str, rounds: int) -> None:
    """Switch rooms on one connection: between the answer of one sign-in and the next, one room's pushes."""
    here = ""
    peer = await system.connect()
    try:
        for turn in range(rounds):
            there = f"room {turn % 2}"
            await peer.say(sign_in(there, token_of(user), version=turn % 3))
            while (reply := pb.Reply.FromString(await peer.hear())).type == pb.MESSAGE:
                assert pb.BroadcastRoomReq.FromString(reply.data).roomID == here
            assert pb.Err.FromString(reply.data).msg == "suc"
            here = there
            for _ in range(2):
                reply = pb.Reply.FromString(await peer.hear())
                assert reply.type == pb.MESSAGE
                assert pb.BroadcastRoomReq.FromString(reply.data).roomID == here
    finally:
        await peer.aclose()


async def test_sign_ins_switch_rooms_while_both_rooms_are_talking() -> None:
    async with running(job__room__signal="50ms") as system, crowd(system, 4, 2) as clients:

        async def talk(client: Client) -> None:
            for number in count():
                await client.publish(b"%d" % number)

        async def listen(client: Client) -> None:
            last = Counter[str]()
            async for message in client.messages():
                assert message.room == client.room
                # No gap and no repetition for those who stay.
                assert int(message.data) == last[message.sender]
                last[message.sender] += 1

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(listen, client)
                nursery.start_soon(talk, client)
            with trio.fail_after(DEADLINE_S):
                async with trio.open_nursery() as wanderers:
                    for number in range(20):
                        wanderers.start_soon(wander, system, f"wanderer {number}", 12)
            await system.until(lambda numbers: numbers["roomcast_rooms_memberships"] == 4)
            nursery.cancel_scope.cancel()


async def test_what_the_queue_delivers_again_reaches_every_client_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_every(step: int, body: bytes, attempt: int) -> bool:
        number = int(pb.BroadcastRoomReq.FromString(body).data)
        return attempt == 1 and number % step == 0

    # Each third delivery goes to a consumer that is dead, each fourth of the others is done and comes again.
    faults = Faults(strand=partial(is_every, 3), lose_finish=partial(is_every, 4))
    monkeypatch.setattr(app, "MemoryQueue", partial(MemoryQueue, faults=faults))
    timings = {"job__nsq__msgTimeout": "1s", "job__room__signal": "50ms"}
    async with running(**timings) as system, crowd(system, 10, 1) as clients:
        for number in range(40):
            await clients[0].publish(b"%d" % number, Level.IMPORTANT if number % 7 else Level.NORMAL)
        numbers = await system.until(lambda numbers: numbers["roomcast_queue_messages"] == 0)
        (order,) = {tuple(message.data for message in await hear(client, 40)) for client in clients}
        assert sorted(map(int, order)) == list(range(40))
        await clients[0].heartbeat()
        assert [client.statistics().buffered for client in clients] == [0] * 10
    assert numbers["roomcast_queue_stranded_total"] == 14
    assert numbers['roomcast_consumer_redelivered_total{partition="0"}'] >= 20
    assert numbers['roomcast_job_loans_repeated_total{reason="finished"}'] >= 6


def small_buffers(settings: WebSocket) -> list[socket.socket]:
    """Let the kernel keep 32 KiB for each client, not megabytes."""
    sockets = open_sockets(settings)
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    return sockets


async def test_member_that_never_reads_is_evicted_and_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "open_sockets", small_buffers)
    limits = {
        "conn__websocket__outboxSoft": "64KiB",
        "conn__websocket__outboxHard": "64KiB",
        # Far longer than the test takes: it is for what it cannot take that the member has to go.
        "conn__websocket__stallTimeout": "60s",
    }
    evicted = 'roomcast_clients_evicted_total{reason="overflow"}'
    async with running(**limits) as system, crowd(system, 99, 1) as clients:
        slow = await system.connect(receive_buffer_bytes=4096)
        await slow.say(sign_in("room 0", token_of("slow")))
        assert await slow.hear() == SUC
        assert await clients[0].members() == 100
        said: list[bytes] = []
        while evicted not in (numbers := await system.numbers()):
            said.append(b"%04d" % len(said) * 3_000)
            await clients[0].publish(said[-1], Level.IMPORTANT)
            # The slow one is stuck; all others have each message before the next one is said.
            for client in clients:
                (message,) = await hear(client, 1)
                assert message.data == said[-1]
        assert numbers[evicted] == 1
        assert numbers["roomcast_rooms_memberships"] == 99
        assert numbers['roomcast_clients_closed_total{reason="4008"}'] == 1
        assert await clients[0].members() == 99
        # What its socket had taken still comes, in order, and then it is told why.
        pushes, close = await hear_pushes(slow)
        assert [body[4:] for body in pushes] == said[: len(pushes)]
        assert close.code == CloseCode.SLOW_CONSUMER


async def test_health_pages_say_how_it_is() -> None:
    async with running() as system:
        assert await system.ask("/livez") == (200, "ok\n")
        status, text = await system.ask("/readyz")
        assert (status, json.loads(text)) == (200, {"ready": True, "reasons": {}})
        assert (await system.ask("/"))[0] == 404


NAME = re.compile(r"roomcast_[a-z]+(_[a-z]+)*")
PARTS = (
    *("admin_connections", "admission", "broadcast", "clients", "consumer", "http", "http_routes", "job"),
    *("listener", "logic", "loop_lag", "openings", "poller", "posting", "queue", "rooms", "sessions"),
)
# What may go down; whatever else is a counter.
GAUGES = {
    *(f"queue_{name}" for name in ("messages", "size_bytes", "waiting", "on_loan", "deferred")),
    *(f"logic_{name}" for name in ("rules_users", "publish_waiting", "publish_waiting_bytes")),
    *(f"job_loans_{name}" for name in ("on_loan", "known")),
    *(
        f"job_delivery_{name}"
        for name in ("lanes", "detached_lanes", "slow_lanes", "behind_lanes", "held", "held_bytes")
    ),
    *("job_dispatch_feeds", "consumer_on_loan", "rooms_rooms", "rooms_memberships", "poller_sockets"),
    *("admission_connections", "admission_addresses", "listener_held", "listener_refusals", "http_open"),
    *("admin_connections_open", "posting_replays_running", "posting_replays_remembered"),
    *("loop_lag_last_seconds", "loop_lag_worst_seconds"),
}


async def test_numbers_of_every_part_are_shown_once_under_names_that_make_sense() -> None:
    async with running() as system, crowd(system, 2, 1) as clients, system.http("shop") as backend:
        await clients[0].publish(b"hello")
        with pytest.raises(PublishRefused):
            await clients[0].publish(b"hello", room="elsewhere")
        await backend.post("/msg", data={"room_id": "room 0", "msg": "hello"})
        await hear(clients[1], 2)
        numbers = await system.until(lambda numbers: numbers["roomcast_queue_messages"] == 0)
        _, text = await system.ask("/metrics")
    kinds = dict(re.findall(r"^# TYPE (roomcast_\S+) (\w+)$", text, re.MULTILINE))
    assert [name for name in kinds if not NAME.fullmatch(name)] == []
    gauges = {name for name, kind in kinds.items() if kind == "gauge"}
    assert gauges == {f"roomcast_{name}" for name in GAUGES}
    assert {name for name in kinds if not any(name.startswith(f"roomcast_{part}_") for part in PARTS)} == {
        "roomcast_scrape_errors_total"
    }
    assert [part for part in PARTS if not any(name.startswith(f"roomcast_{part}_") for name in kinds)] == []
    samples = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert [name for name, times in Counter(samples).items() if times > 1] == []
    assert not [name for name in numbers if name.startswith("roomcast_scrape_errors_total{")]
    wanted = {
        "roomcast_rooms_memberships": 2,
        "roomcast_broadcast_frames_total": 4,
        "roomcast_queue_stored_total": 2,
        "roomcast_posting_accepted_total": 1,
        "roomcast_logic_tokens_accepted_total": 3,
        'roomcast_sessions_refused_total{reason="not_a_member"}': 1,
        'roomcast_http_routes_requests_total{reason="/msg 200 1"}': 1,
        'roomcast_consumer_received_total{partition="0"}': 2,
        "roomcast_job_loans_finished_total": 2,
        "process_open_fds": numbers["process_open_fds"],
    }
    assert {name: numbers[name] for name in wanted} == wanted
