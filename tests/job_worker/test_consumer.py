from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from job_worker.consumer import REQUEUE_DELAY_S, Intake, Loan, Loans
from schema.message import Message
from tests.job_worker.fakes import FakeConsumer, FakeDelivery, Log, message


def make_loans(window: int = 100, msg_timeout_s: float = 9.0) -> tuple[Loans, Log]:
    log = Log()
    return Loans(window, msg_timeout_s, log), log  # type: ignore[arg-type]


def take(loans: Loans, said: Message) -> tuple[FakeDelivery, Loan]:
    delivery = FakeDelivery(said.encode())
    loan = loans.take(delivery)
    assert loan is not None
    return delivery, loan


async def test_delivery_is_finished_when_its_batch_was_handed_over_and_never_before() -> None:
    loans, _ = make_loans()
    delivery, loan = take(loans, message(1))
    assert (delivery.answer, loan.message, loans.statistics().on_loan) == (None, message(1), 1)
    loans.settle([loan], True)
    assert delivery.answer == "finished"
    assert (loans.statistics().on_loan, loans.statistics().finished) == (0, 1)


async def test_message_that_nobody_got_comes_again_after_a_while() -> None:
    loans, _ = make_loans()
    delivery, loan = take(loans, message(1))
    loans.settle([loan], False)
    assert delivery.answer == REQUEUE_DELAY_S
    assert loans.statistics().requeued == {"nobody": 1}
    again, loan = take(loans, message(1))
    loans.settle([loan], True)
    assert again.answer == "finished"


async def test_finished_message_that_comes_again_is_finished_again_and_not_pushed() -> None:
    loans, _ = make_loans()
    _, loan = take(loans, message(1))
    loans.settle([loan], True)
    again = FakeDelivery(message(1).encode(), attempts=2)
    assert loans.take(again) is None
    assert again.answer == "finished"
    assert loans.statistics().repeated == {"finished": 1}


async def test_message_that_comes_again_while_on_loan_is_answered_with_the_first() -> None:
    loans, _ = make_loans()
    first, loan = take(loans, message(1))
    second = FakeDelivery(message(1).encode(), attempts=2)
    assert loans.take(second) is None
    assert (first.answer, second.answer) == (None, None)
    loans.settle([loan], True)
    assert (first.answer, second.answer) == ("finished", "finished")
    assert loans.statistics().repeated == {"on loan": 1}


async def test_message_without_identity_is_never_taken_for_another() -> None:
    loans, _ = make_loans()
    for _ in range(3):
        _, loan = take(loans, message(1, origin=0))
        loans.settle([loan], True)
    assert loans.statistics().taken == 3
    assert loans.statistics().known == 0


async def test_only_the_newest_identities_are_remembered() -> None:
    loans, _ = make_loans(window=3)
    for number in range(5):
        _, loan = take(loans, message(number))
        loans.settle([loan], True)
    assert loans.statistics().known == 3
    assert loans.take(FakeDelivery(message(4).encode())) is None
    assert loans.take(FakeDelivery(message(2).encode())) is None
    assert loans.take(FakeDelivery(message(1).encode())) is not None


@pytest.mark.parametrize("body", [b"\xff\xff\xff", Message("", 0, b"x").encode(), b"\x0a\x01r"])  # type: ignore[arg-type]
async def test_poison_is_set_aside_counted_and_finished(body: bytes) -> None:
    loans, log = make_loans()
    delivery = FakeDelivery(body)
    assert loans.take(delivery) is None
    assert delivery.answer == "finished"
    assert loans.statistics().malformed == 1
    ((level, _, values),) = log.lines
    assert (level, values["body"]) == ("error", body.hex())


async def test_flood_of_poison_does_not_flood_the_log(autojump_clock: MockClock) -> None:
    loans, log = make_loans()
    for number in range(100):
        loans.take(FakeDelivery(b"\xff" * 5000))
        await trio.sleep(0.05)
        assert len(log.lines) <= 1 + number * 0.05
    assert loans.statistics().malformed == 100
    assert all(len(values["body"]) <= 512 for _, _, values in log.lines)


async def test_what_is_on_loan_for_long_is_touched_in_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    loans, _ = make_loans(msg_timeout_s=9.0)
    nursery.start_soon(loans.run_touching)
    taken: list[tuple[float, FakeDelivery, Loan]] = []
    for number in range(10):
        await trio.sleep(0.7)
        taken.append((trio.current_time(), *take(loans, message(number))))
    await trio.sleep(30)
    for at, delivery, _ in taken:
        moments = [at, *delivery.touched, trio.current_time()]
        # Never later than a third of the time limit, and not all the time either.
        assert max(b - a for a, b in pairwise(moments)) <= 3.0 + 1e-6
        assert len(delivery.touched) <= 37 / 1.5
    loans.settle([loan for _, _, loan in taken], True)
    touches = loans.statistics().touched
    await trio.sleep(30)
    assert loans.statistics().touched == touches
    nursery.cancel_scope.cancel()


async def test_quickly_settled_messages_are_not_touched(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    loans, _ = make_loans(msg_timeout_s=9.0)
    nursery.start_soon(loans.run_touching)
    for number in range(100):
        _, loan = take(loans, message(number))
        await trio.sleep(1)
        loans.settle([loan], True)
    assert loans.statistics().touched == 0
    nursery.cancel_scope.cancel()


async def test_all_that_is_on_loan_is_given_back_at_the_end() -> None:
    loans, _ = make_loans()
    first, loan = take(loans, message(1))
    second, _ = take(loans, message(2))
    loans.take(FakeDelivery(message(2).encode()))
    loans.give_back()
    assert (first.answer, second.answer) == (0.0, 0.0)
    assert loans.statistics().requeued == {"drain": 2}
    loans.settle([loan], True)
    assert first.answer == 0.0


async def test_waiting_for_settlement_ends_with_the_last_loan(nursery: trio.Nursery) -> None:
    loans, _ = make_loans()
    _, first = take(loans, message(1))
    _, second = take(loans, message(2))
    ended = trio.Event()

    async def wait() -> None:
        await loans.wait_settled()
        ended.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    loans.settle([first], True)
    await wait_all_tasks_blocked()
    assert not ended.is_set()
    loans.settle([second], False)
    await ended.wait()


class Feeds:
    """A destination with room for `places` messages."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken: list[int] = []
        self.changed = trio.lowlevel.ParkingLot()

    async def put(self, record: Loan) -> None:
        while len(self.taken) >= self.places:
            await self.changed.park()
        self.taken.append(record.message.origin_seq)


def make_intake(places: int, said: Iterable[int]) -> tuple[Intake, Feeds, FakeConsumer, Loans]:
    loans, _ = make_loans()
    consumer, feeds = FakeConsumer(), Feeds(places)
    consumer.resume()
    consumer.put(*(message(number) for number in said))
    return Intake(consumer, loans, feeds), feeds, consumer, loans


async def test_intake_forwards_in_order_and_waits_for_room(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    intake, feeds, consumer, _ = make_intake(3, range(10))
    nursery.start_soon(intake.run)
    await wait_all_tasks_blocked()
    assert feeds.taken == [0, 1, 2]
    feeds.places = 100
    feeds.changed.unpark_all()
    consumer.put(message(10))
    await wait_all_tasks_blocked()
    assert feeds.taken == list(range(11))
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("places", [3, 100])
async def test_stopped_intake_forwards_the_rest_without_gap_or_repetition(
    autojump_clock: MockClock, places: int
) -> None:
    intake, feeds, consumer, loans = make_intake(places, range(10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    feeds.places = 100
    consumer.put(message(10))
    await intake.run_rest()
    assert feeds.taken == list(range(11))
    assert loans.statistics().on_loan == 11
    assert trio.current_time() < 1


async def test_intake_cancelled_while_its_message_finds_room_forwards_it_once(
    autojump_clock: MockClock,
) -> None:
    """The scope is cancelled in the very step in which there is room: it is put then or later, not twice."""
    for room_first in (True, False):
        intake, feeds, _, _ = make_intake(3, range(5))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(intake.run)
            await wait_all_tasks_blocked()
            feeds.places = 100
            if room_first:
                feeds.changed.unpark_all()
                nursery.cancel_scope.cancel()
            else:
                nursery.cancel_scope.cancel()
                feeds.changed.unpark_all()
        await intake.run_rest()
        assert feeds.taken == list(range(5))
