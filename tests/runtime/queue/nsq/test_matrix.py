"""Our producer and consumer against an nsqd that is stopped, cut off and misused.

Each test runs against the stand-in, and against a real nsqd where one is on PATH.
"""

from __future__ import annotations

import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from runtime.queue.nsq import NsqConsumer, NsqOptions, NsqProducer, NsqQueue, codec
from runtime.queue.nsq.handshake import open_stream
from schema.access import Unavailable
from schema.message import Level, Malformed, Message
from tests.runtime.queue.nsq.daemons import (
    Daemon,
    Flags,
    batches,
    is_missing,
    numbers,
    open_http,
    open_nsqd,
    run_peer,
    until,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

TOPIC, CHANNEL = "chat_room", "room_job"
KNOWN = Flags(known=((TOPIC, CHANNEL),))
WITHIN_S = 15
# Where a test waits for one of these to be over; nsqd takes no msg_timeout and no heartbeat below 1 s.
QUICK: dict[str, Any] = {"msg_timeout_s": 1.0, "heartbeat_s": 1.0, "answer_deadline_s": 1.0}


@pytest.fixture(params=["fake", "real"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if is_missing(name):
        pytest.skip("no nsqd on PATH")
    return name


def options(*addresses: str, **changes: Any) -> NsqOptions:
    """Return the defaults with short pauses, so that no test on a busy machine meets a deadline by chance."""
    short: dict[str, Any] = {"reconnect_max_s": 0.2, "drain_deadline_s": 2.0}
    return NsqOptions(nsqd=addresses, **(short | changes))


@asynccontextmanager
async def open_both(
    chosen: NsqOptions, *, max_in_flight: int = 200
) -> AsyncIterator[tuple[NsqProducer, NsqConsumer]]:
    queue = NsqQueue(chosen)
    with trio.fail_after(WITHIN_S):
        async with (
            queue.open_producer() as producer,
            queue.open_consumer(TOPIC, CHANNEL, max_in_flight=max_in_flight) as consumer,
        ):
            consumer.resume()
            yield producer, consumer


@asynccontextmanager
async def open_pair(
    kind: str, folder: Path, *, max_in_flight: int = 200, **changes: Any
) -> AsyncIterator[tuple[Daemon, NsqProducer, NsqConsumer]]:
    async with (
        open_nsqd(kind, folder, KNOWN) as nsqd,
        open_both(options(nsqd.address, **changes), max_in_flight=max_in_flight) as (producer, consumer),
    ):
        yield nsqd, producer, consumer


async def take(consumer: NsqConsumer, count: int) -> list[bytes]:
    """Receive and finish `count` messages."""
    bodies = []
    for _ in range(count):
        delivery = await consumer.receive()
        bodies.append(delivery.body)
        delivery.finish()
    return bodies


async def take_all(consumer: NsqConsumer, wanted: set[bytes]) -> Counter[bytes]:
    """Receive and finish until each of `wanted` has come."""
    came: Counter[bytes] = Counter()
    while wanted - came.keys():
        came.update(await take(consumer, 1))
    return came


async def publish_again(producer: NsqProducer, bodies: list[bytes]) -> None:
    """Do what a logic server does: try until it is stored."""
    while True:
        try:
            return await producer.publish(TOPIC, bodies)
        except Unavailable:
            await trio.sleep(0.02)


async def settle(nsqd: Daemon, **wanted: int) -> None:
    """Wait until the channel's figures are `wanted`."""
    with trio.fail_after(WITHIN_S):
        while True:
            stats = await nsqd.stats(TOPIC, CHANNEL)
            if {name: stats[name] for name in wanted} == wanted:
                return
            await trio.sleep(0.02)


async def test_five_thousand_messages_keep_their_order(kind: str, tmp_path: Path) -> None:
    bodies = numbers(5000)
    async with open_pair(kind, tmp_path) as (nsqd, producer, consumer):
        async with trio.open_nursery() as nursery:

            async def publish_from(number: int) -> None:
                # Many callers at once: each starts the next one before its own call.
                if number + 1 < len(bodies):
                    nursery.start_soon(publish_from, number + 1)
                await producer.publish(TOPIC, [bodies[number]])

            async def publish() -> None:
                for batch in batches(bodies[:2500], 50):
                    await producer.publish(TOPIC, batch)
                nursery.start_soon(publish_from, 2500)

            nursery.start_soon(publish)
            assert await take(consumer, 5000) == bodies
        assert producer.statistics().stored == 5000
        assert producer.statistics().batches < 2500
        await settle(nsqd, depth=0, in_flight=0)


async def test_restart_loses_nothing_and_callers_hardly_notice(kind: str, tmp_path: Path) -> None:
    async with open_pair(kind, tmp_path) as (nsqd, producer, consumer):
        bodies = numbers(2000)
        came: Counter[bytes] = Counter()
        stored = trio.Event()

        async def publish() -> None:
            for batch in batches(bodies, 10):
                await publish_again(producer, batch)
                if batch[0] == b"500":
                    stored.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)

            async def restart() -> None:
                await stored.wait()
                await nsqd.restart()

            nursery.start_soon(restart)
            came = await take_all(consumer, set(bodies))
        assert came.keys() == set(bodies)
        assert producer.statistics().connected == 2
        assert consumer.statistics().connected == 2
        assert consumer.losses == 1


async def test_kill_loses_what_is_in_flight_and_nothing_on_disk(kind: str, tmp_path: Path) -> None:
    async with open_nsqd(kind, tmp_path, Flags(sync_every=1, known=((TOPIC, CHANNEL),))) as nsqd:
        chosen = options(nsqd.address, msg_timeout_s=5.0, drain_deadline_s=0.1)
        async with open_both(chosen, max_in_flight=50) as (producer, consumer):
            bodies = numbers(200)
            await producer.publish(TOPIC, bodies)
            held = [await consumer.receive() for _ in range(50)]
            await settle(nsqd, in_flight=50, depth=150, moving=0)
            await nsqd.restart(signal.SIGKILL)
            lost = {delivery.body for delivery in held}
            came = await take_all(consumer, set(bodies) - lost)
            for delivery in held:
                delivery.finish()
            assert consumer.statistics().answers["late"] == 50
            assert not lost & came.keys()


async def test_broken_connection_is_replaced_and_loans_return(kind: str, tmp_path: Path) -> None:
    async def break_off(fault: str, reason: str) -> None:
        async with open_pair(kind, tmp_path / fault, **QUICK) as (nsqd, producer, consumer):
            await producer.publish(TOPIC, numbers(10))
            held = [await consumer.receive() for _ in range(10)]
            began = trio.current_time()
            await nsqd.fault(fault)
            await publish_again(producer, numbers(10, 10))
            assert (await take_all(consumer, set(numbers(20)))).keys() == set(numbers(20))
            assert trio.current_time() - began > 0.8  # not at the disconnect: at the end of msg_timeout
            held[0].finish()
            figures = consumer.statistics()
            assert figures.answers["late"] == 1
            assert figures.redelivered >= 10
            assert figures.failures == {reason: 1}
            assert consumer.losses == 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(break_off, "rst", "reset")
        nursery.start_soon(break_off, "mid-frame", "closed-by-nsqd")
        nursery.start_soon(break_off, "half-open", "silent")


async def test_half_open_nsqd_makes_publish_fail_in_time(kind: str, tmp_path: Path) -> None:
    async with (
        open_nsqd(kind, tmp_path, KNOWN) as nsqd,
        NsqQueue(options(nsqd.address, answer_deadline_s=0.3)).open_producer() as producer,
    ):
        await producer.publish(TOPIC, [b"before"])
        await nsqd.fault("half-open")
        began = trio.current_time()
        with pytest.raises(Unavailable, match="unanswered"):
            await producer.publish(TOPIC, [b"into the void"])
        assert 0.2 < trio.current_time() - began < 2.5
        await publish_again(producer, [b"after"])


async def test_stopped_nsqd_is_noticed_and_found_again(kind: str, tmp_path: Path) -> None:
    async with open_nsqd(kind, tmp_path, KNOWN) as nsqd:
        impatient = QUICK | {"answer_deadline_s": 0.4, "publish_deadline_s": 0.2, "connect_deadline_s": 0.3}
        chosen = options(nsqd.address, **impatient)
        async with open_both(chosen) as (producer, consumer):
            await publish_again(producer, [b"before"])
            await nsqd.pause()
            with pytest.raises(Unavailable, match="not stored within"):
                await producer.publish(TOPIC, [b"meanwhile"])
            await until(lambda: producer.statistics().failures.keys() >= {"unanswered", "connect-deadline"})
            nsqd.go_on()
            await publish_again(producer, [b"after"])
            # Perhaps twice: "after" may go out on a connection that is given up in that moment.
            await take_all(consumer, {b"before", b"after"})
            assert producer.statistics().refused["deadline"] >= 1


async def test_impossible_messages_are_refused_before_they_are_sent(kind: str, tmp_path: Path) -> None:
    async with open_pair(kind, tmp_path) as (_, producer, consumer):
        for topic, bodies in [
            (TOPIC, [b""]),
            (TOPIC, [b"x" * ((1 << 20) + 1)]),
            (TOPIC, [b"x" * (1 << 20)] * 3),
            ("no/topic", [b"x"]),
            ("", [b"x"]),
            ("x" * 65, [b"x"]),
        ]:
            with pytest.raises(ValueError, match=r"NSQ message|bytes|not 1 to 64"):
                await producer.publish(topic, bodies)
        biggest = b"x" * (1 << 20)
        await producer.publish(TOPIC, [biggest])
        assert await take(consumer, 1) == [biggest]
        assert producer.statistics().connected == 1


async def test_oversize_body_fails_alone_where_nsqd_takes_less(kind: str, tmp_path: Path) -> None:
    """nsqd does not announce its limits, and refuses a batch as a whole: once, one poisonous message
    made its neighbours fail, and each retry of them again."""
    flags = Flags(max_msg_bytes=1000, known=((TOPIC, CHANNEL),))
    async with (
        open_nsqd(kind, tmp_path, flags) as nsqd,
        open_both(options(nsqd.address)) as (producer, consumer),
    ):
        await producer.publish(TOPIC, [b"warm"])
        outcomes: dict[bytes, str] = {}

        async def publish(body: bytes) -> None:
            try:
                await producer.publish(TOPIC, [body])
                outcomes[body] = "stored"
            except ValueError:
                outcomes[body] = "poison"

        poison = b"x" * 1001
        async with trio.open_nursery() as nursery:
            for body in [*numbers(10), poison, *numbers(10, 10)]:
                nursery.start_soon(publish, body)
        assert outcomes == dict.fromkeys(numbers(20), "stored") | {poison: "poison"}
        assert await take_all(consumer, {b"warm", *numbers(20)}) == Counter([b"warm", *numbers(20)])
        assert producer.statistics().refused == {"poison": 1}
        # Once for the batch, once for the poison alone; callers are told before the link has counted.
        await until(lambda: producer.statistics().failures == {"E_BAD_MESSAGE": 2})


async def test_poisonous_message_is_set_aside_and_never_comes_again(kind: str, tmp_path: Path) -> None:
    async with open_pair(kind, tmp_path) as (nsqd, producer, consumer):
        good = Message("room", Level.NORMAL, b"hello").encode()
        await producer.publish(TOPIC, [good, b"\xff\xff poison", good])
        aside, told = [], []
        for _ in range(3):
            delivery = await consumer.receive()
            try:
                told.append(Message.decode(delivery.body).data)
            except Malformed:
                aside.append(delivery.body)
            delivery.finish()
        assert (told, aside) == ([b"hello"] * 2, [b"\xff\xff poison"])
        # nsqd has nothing left that could come again.
        await settle(nsqd, depth=0, in_flight=0, deferred=0)
        assert consumer.statistics().received == 3


async def test_unanswered_loan_comes_again_and_late_answer_is_counted(kind: str, tmp_path: Path) -> None:
    async with open_pair(kind, tmp_path, **QUICK) as (nsqd, producer, consumer):
        began = trio.current_time()
        await producer.publish(TOPIC, [b"kept", b"held"])
        kept, held = await consumer.receive(), await consumer.receive()
        again = None
        while again is None:
            kept.touch()
            with trio.move_on_after(0.3):
                again = await consumer.receive()
        assert (again.body, again.attempts) == (b"held", 2)
        assert 0.9 < trio.current_time() - began < 4
        held.finish()
        held.requeue()
        kept.finish()
        kept.finish()
        again.finish()
        answers = consumer.statistics().answers
        assert (answers["late"], answers["repeated"], answers["finished"]) == (2, 1, 2)
        assert answers["touched"] >= 3
        await settle(nsqd, depth=0, in_flight=0)
        # One that nsqd itself calls late is counted, and costs nothing more.
        kept.connection.write_nowait(codec.fin("0123456789abcdef"))
        await until(lambda: consumer.statistics().too_late == {"E_FIN_FAILED": 1})
        await producer.publish(TOPIC, [b"goes on"])
        assert await take(consumer, 1) == [b"goes on"]
        assert consumer.losses == 0


async def test_what_waits_to_be_received_does_not_time_out_and_come_again_behind_others(
    kind: str, tmp_path: Path
) -> None:
    async with open_pair(kind, tmp_path, msg_timeout_s=3.0) as (_, producer, consumer):
        await producer.publish(TOPIC, numbers(20))
        await until(lambda: consumer.statistics().waiting == 20)
        await trio.sleep(4.0)
        (await consumer.receive()).finish()
        assert await take(consumer, 19) == numbers(19, 1)
        statistics = consumer.statistics()
        assert (statistics.redelivered, set(statistics.answers)) == (0, {"touched", "finished"})


async def test_requeued_message_goes_to_the_tail(kind: str, tmp_path: Path) -> None:
    async with open_pair(kind, tmp_path, max_in_flight=1) as (_, producer, consumer):
        await producer.publish(TOPIC, numbers(20))
        first = await consumer.receive()
        first.requeue()
        came = await take(consumer, 20)
        # nsqd has read the next one from its disk already, or more.
        assert came[:15] == numbers(15, 1)
        assert sorted(came) == sorted(numbers(20))
        assert came[-1] == b"0" or came.index(b"0") > 15
        await producer.publish(TOPIC, [b"later"])
        began = trio.current_time()
        (await consumer.receive()).requeue(0.4)
        (again,) = [await consumer.receive()]
        again.finish()
        assert (again.body, again.attempts) == (b"later", 2)
        assert trio.current_time() - began > 0.35


async def test_loans_and_topics_are_spread_over_several_nsqds(kind: str, tmp_path: Path) -> None:
    async with (
        open_nsqd(kind, tmp_path / "one", KNOWN) as one,
        open_nsqd(kind, tmp_path / "two", KNOWN) as two,
        open_both(options(one.address, two.address), max_in_flight=11) as (producer, consumer),
    ):
        await settle(one, clients=1)
        await settle(two, clients=1)
        await producer.publish(TOPIC, numbers(30))
        held = [await consumer.receive() for _ in range(5)]
        (home,) = {delivery.address for delivery in held}
        for delivery in held:
            delivery.finish()
        came = Counter([*(d.body for d in held), *await take(consumer, 25)])
        # Its nsqd goes: the topic moves, at once, and nothing that was stored is lost.
        dying = one if home == one.address else two
        if kind == "real":  # the wire in front of it listens on
            dying.wire.fault("rst")  # type: ignore[attr-defined]
        await dying.end()
        began = trio.current_time()
        for batch in batches(numbers(30, 30), 10):
            await publish_again(producer, batch)
        assert trio.current_time() - began < 3
        came.update(await take(consumer, 30))
        assert came == Counter(numbers(60))


async def test_consumer_never_asks_for_more_than_it_may_hold(kind: str, tmp_path: Path) -> None:
    async with open_pair(kind, tmp_path, max_in_flight=7) as (nsqd, producer, consumer):
        await producer.publish(TOPIC, numbers(30))
        await settle(nsqd, in_flight=7, depth=23)
        consumer.pause()
        await take(consumer, 7)
        await settle(nsqd, in_flight=0, depth=23)
        assert consumer.statistics().waiting == 0
        consumer.resume()
        assert len(await take(consumer, 23)) == 23


async def test_leaving_gives_back_what_nobody_took_and_waits_for_the_rest(kind: str, tmp_path: Path) -> None:
    async with open_nsqd(kind, tmp_path, KNOWN) as nsqd, trio.open_nursery() as nursery:
        chosen = options(nsqd.address, msg_timeout_s=60.0)
        async with open_both(chosen, max_in_flight=20) as (producer, consumer):
            await producer.publish(TOPIC, numbers(50))
            held = [await consumer.receive() for _ in range(10)]
            await settle(nsqd, in_flight=20)

            async def answer_later() -> None:
                await trio.sleep(0.3)
                for delivery in held[:9]:
                    delivery.finish()
                held[9].requeue()

            nursery.start_soon(answer_later)
        assert [consumer.statistics().answers[name] for name in ("finished", "requeued", "returned")] == [
            *(9, 11),
            10,
        ]
        # msg_timeout is a minute: what is queued again has been given back.
        await settle(nsqd, depth=41, in_flight=0)


async def test_cancelled_consumer_gives_everything_back_at_once(kind: str, tmp_path: Path) -> None:
    async with open_nsqd(kind, tmp_path, KNOWN) as nsqd:
        began = trio.current_time()
        with trio.CancelScope() as scope:
            chosen = options(nsqd.address, msg_timeout_s=60.0, drain_deadline_s=10.0)
            async with open_both(chosen, max_in_flight=20) as (producer, consumer):
                await producer.publish(TOPIC, numbers(50))
                await consumer.receive()
                await settle(nsqd, in_flight=20)
                began = trio.current_time()
                scope.cancel()
                await trio.sleep_forever()
        assert trio.current_time() - began < 3
        await settle(nsqd, depth=50, in_flight=0)


async def test_cancelling_at_any_moment_leaves_nothing(kind: str, tmp_path: Path) -> None:
    """`no_leaks` counts; here only that each of them ends."""
    async with open_nsqd(kind, tmp_path, KNOWN) as nsqd:
        for moment in range(24):
            with trio.fail_after(4), trio.move_on_after(moment * 0.002):
                async with (
                    open_both(options(nsqd.address)) as (producer, consumer),
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(producer.publish, TOPIC, numbers(100))
                    await take(consumer, 100)
                    await trio.sleep_forever()


async def test_messages_pass_through_tls(kind: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "nsqd.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with open_nsqd(kind, tmp_path, Flags(tls_cert=pem)) as nsqd:
        async with open_both(options(nsqd.address, tls=trusting)) as (producer, consumer):
            await producer.publish(TOPIC, numbers(1000))
            assert await take(consumer, 1000) == numbers(1000)
        for wrong, reason, deadline_s in [
            (None, "E_INVALID", 30.0),
            (ssl.create_default_context(), "deadline", 0.5),
        ]:
            chosen = options(nsqd.address, tls=wrong, publish_deadline_s=deadline_s)
            async with NsqQueue(chosen).open_producer() as producer:
                with pytest.raises(Unavailable):
                    await producer.publish(TOPIC, [b"not taken"])
                assert producer.statistics().refused == {reason: 1}


async def test_secret_is_asked_for_and_checked(kind: str, tmp_path: Path) -> None:
    permissions = [{"permissions": ["subscribe", "publish"], "topic": "^chat_room$", "channels": [".*"]}]
    good = {"ttl": 3600, "identity": "x", "identity_url": "", "authorizations": permissions}
    async with open_http(good) as server:
        flags = Flags(auth_secret="s3cret", auth_server=server)
        async with open_nsqd(kind, tmp_path, flags) as nsqd:
            async with open_both(options(nsqd.address, auth_secret="s3cret")) as (producer, consumer):
                await producer.publish(TOPIC, numbers(10))
                assert await take(consumer, 10) == numbers(10)
            chosen = options(nsqd.address, publish_deadline_s=0.3)
            async with NsqQueue(chosen).open_producer() as producer:
                with pytest.raises(Unavailable):
                    await producer.publish(TOPIC, [b"not stored"])
                assert producer.statistics().failures.keys() == {"no-auth-secret"}
    assert "s3cret" not in repr(options("127.0.0.1:1", auth_secret="s3cret"))


@pytest.mark.parametrize("fast", [True, False])
async def test_output_buffering_is_negotiated(kind: str, fast: bool, tmp_path: Path) -> None:
    async with open_nsqd(kind, tmp_path, Flags(fast_output=fast)) as nsqd:
        opened = await open_stream(nsqd.address, options(nsqd.address, msg_timeout_s=2.0))
        await trio.aclose_forcefully(opened.stream)
        assert opened.negotiated.output_buffering_ms == (1 if fast else 25)
        assert opened.negotiated.msg_timeout_s == 2.0


async def test_ansq_reads_what_we_publish_and_publishes_what_we_read(kind: str, tmp_path: Path) -> None:
    peer = "tests/peers/ansq_peer.py"
    async with (
        open_nsqd(kind, tmp_path) as nsqd,
        open_both(options(nsqd.address)) as (producer, consumer),
        trio.open_nursery() as nursery,
    ):

        async def let_ansq_consume() -> None:
            printed = await run_peer(peer, "consume", nsqd.address, "other", "theirs", "200")
            assert printed.split() == numbers(200)

        await producer.publish("other", numbers(200))
        nursery.start_soon(let_ansq_consume)
        nursery.start_soon(run_peer, peer, "publish", nsqd.address, TOPIC, "500")
        assert await take(consumer, 500) == numbers(500)


async def test_publish_waits_for_an_nsqd_that_is_not_there_yet(kind: str, tmp_path: Path) -> None:
    async with open_nsqd(kind, tmp_path) as nsqd:
        await nsqd.end()
        async with (
            NsqQueue(options(nsqd.address)).open_producer() as producer,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(producer.publish, TOPIC, [b"patient"])
            await trio.sleep(0.3)
            await nsqd.start()


async def test_publish_over_the_bound_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    async with open_nsqd(kind, tmp_path) as nsqd:
        await nsqd.end()
        chosen = options(
            nsqd.address,
            max_message_bytes=1000,
            max_batch_bytes=2000,
            max_waiting_bytes=2000,
            publish_deadline_s=0.4,
        )
        refusals: list[str] = []

        async def publish(producer: NsqProducer) -> None:
            try:
                await producer.publish(TOPIC, [b"x" * 900])
            except Unavailable as exc:
                refusals.append(exc.text)

        async with NsqQueue(chosen).open_producer() as producer:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(publish, producer)
            assert producer.statistics().refused == {"full": 1, "deadline": 2}
            assert producer.statistics().waiting_bytes == 0
        assert [text.split()[1] for text in refusals] == ["1808", "not", "not"]
