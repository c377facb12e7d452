"""Logic as a conn server sees it: tokens, rules and the queue together."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from logic_server.settings import LogicSettings, Nsq, Rules
from schema.access import EXPIRED, Code, Grant, Refused, Unavailable
from schema.message import Message
from schema.tokens import LIFETIME_S, TokenAuthority
from tests.logic_server.fakes import KEY, NOW, FakeProducer, fake_logic, message, token


async def test_token_is_good_until_it_expires() -> None:
    logic = fake_logic(FakeProducer())
    assert await logic.authenticate(token("42")) == Grant(42, "42", int(NOW) + LIFETIME_S)
    old = TokenAuthority(KEY).issue("42", NOW - LIFETIME_S - 1)
    with pytest.raises(Refused) as caught:
        await logic.authenticate(old)
    assert (caught.value.code, caught.value.text) == (Code.NOT_SIGNED_IN, EXPIRED)


async def test_many_tokens_are_judged_one_by_one() -> None:
    logic = fake_logic(FakeProducer())
    verdicts = await logic.authenticate_many([token("1"), "nonsense", token("2")] * 20)
    assert [each.user if isinstance(each, Grant) else each.code for each in verdicts] == ["1", 100, "2"] * 20
    assert logic.statistics().tokens.accepted == 40


async def test_checking_many_tokens_lets_others_run() -> None:
    logic = fake_logic(FakeProducer())
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await logic.authenticate_many([token()] * 200)
        nursery.cancel_scope.cancel()
    assert turns >= 10


async def test_rooms_of_the_settings_are_granted_to_tokens_that_name_none() -> None:
    logic = fake_logic(FakeProducer(), LogicSettings(rules=Rules(join=("lobby",))))
    assert (await logic.authenticate(token())).rooms == ("lobby",)


async def test_messages_that_the_rules_take_are_stored_and_the_others_told_why() -> None:
    producer = FakeProducer()
    logic = fake_logic(producer, LogicSettings(rules=Rules(max_data_bytes=10)))
    good, large, nameless, last = message(1), message(2, data=b"x" * 11), message(3, room="\n"), message(4)
    verdicts = await logic.publish_many([good, large, nameless, last])
    assert [getattr(each, "code", None) for each in verdicts] == [
        None,
        Code.TOO_LARGE,
        Code.BAD_REQUEST,
        None,
    ]
    assert producer.messages == [good, last]
    assert producer.batches == [2]


async def test_verdicts_of_the_queue_and_of_the_rules_do_not_mix() -> None:
    producer = FakeProducer()
    poison = message(3)
    producer.poison = poison.encode()
    logic = fake_logic(producer, LogicSettings(rules=Rules(max_data_bytes=10)))
    messages = [message(1, data=b"x" * 11), message(2), poison, message(4, data=b"x" * 11), message(5)]
    verdicts = await logic.publish_many(messages)
    assert [type(each) for each in verdicts] == [Refused, type(None), Refused, Refused, type(None)]
    assert producer.messages == [message(2), message(5)]


async def test_rate_counts_per_user(autojump_clock: MockClock) -> None:
    logic = fake_logic(FakeProducer(), LogicSettings(rules=Rules(publish_rate=2.0, publish_burst=3)))
    verdicts = await logic.publish_many([message(number) for number in range(1, 6)])
    assert [getattr(each, "code", None) for each in verdicts] == [None] * 3 + [Code.TOO_FAST] * 2
    await trio.sleep(0.5)
    await logic.publish(message(6))
    with pytest.raises(Refused):
        await logic.publish(message(7))


async def test_one_message_is_stored_or_raises() -> None:
    producer = FakeProducer()
    logic = fake_logic(producer)
    await logic.publish(message(1))
    with pytest.raises(Refused):
        await logic.publish(message(2, room=""))
    assert producer.messages == [message(1)]


async def test_message_of_a_go_conn_server_loses_what_it_claims_about_itself() -> None:
    producer = FakeProducer()
    await fake_logic(producer).publish_foreign(message(1))
    assert producer.messages == [Message("lobby", message().level, b"x")]


async def test_publish_timeout_of_the_settings_holds(autojump_clock: MockClock) -> None:
    producer = FakeProducer()
    producer.gate = trio.Event()
    logic = fake_logic(producer, LogicSettings(nsq=Nsq(publish_timeout_s=2.0)))
    began = trio.current_time()
    with pytest.raises(Unavailable):
        await logic.publish(message())
    assert trio.current_time() - began == pytest.approx(2.0)


async def test_topic_and_partitions_of_the_settings_hold() -> None:
    producer = FakeProducer()
    logic = fake_logic(producer, LogicSettings(nsq=Nsq(topic="talk", partitions=2)))
    await logic.publish_many([message(1, room="lobby"), message(2, room="room_1")])
    assert sorted(topic for topic, _ in producer.stored) == ["talk.0", "talk.1"]
