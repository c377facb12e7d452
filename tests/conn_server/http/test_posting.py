from __future__ import annotations

import pytest
import trio
import trio.testing

from conn_server.http.answers import NO_PARAMETERS, SIGN_IN, SUCCEEDED, Answer, make_answer
from conn_server.http.posting import MAX_KEY_CHARACTERS, Post, Posting
from schema.access import EXPIRED, Code, Grant, Refused, Unavailable
from schema.message import Level, Message
from tests.conn_server.http.serving import BOOT_ID, MAX_DATA_BYTES, NOW, PlayedLogic, new_posting

FIELDS = {"room_id": "a", "msg": "<hi>"}


def post(key: str = "", token: str = "good", **fields: str) -> Post:
    return Post(token, FIELDS | fields, key)


async def outcome(posting: Posting, request: Post, answers: list[Answer]) -> None:
    answers.append(await posting.post(request))


async def test_message_reaches_the_queue_as_go_would_have_sent_it() -> None:
    logic = PlayedLogic()
    posting = new_posting(logic)
    assert await posting.post(post()) is SUCCEEDED
    assert logic.published == [
        Message("a", Level.IMPORTANT, b'"\\u003chi\\u003e"', BOOT_ID, 1, "7", int(NOW * 1000))
    ]
    assert posting.statistics().accepted == 1


@pytest.mark.parametrize(
    ("codes", "request_", "error", "body"),
    [
        ("readme", post(token=""), None, SIGN_IN.body.decode()),
        ("readme", post(token="bad"), None, SIGN_IN.body.decode()),
        ("go", post(token=""), None, '{"code":0,"msg":"无效token"}'),
        ("go", post(token="bad"), None, '{"code":0,"msg":"rpc error: code = Unknown desc = 无效token"}'),
        ("readme", post(), Refused(Code.NOT_SIGNED_IN, EXPIRED), SIGN_IN.body.decode()),
        ("readme", post(), Unavailable("logic is away"), '{"code":0,"msg":"logic is away"}'),
        ("go", post(), Unavailable("logic is away"), '{"code":0,"msg":"logic is away"}'),
        ("readme", post(), Refused(Code.FORBIDDEN, "blocked"), '{"code":0,"msg":"blocked"}'),
    ],
)
async def test_sign_in_is_asked_for_only_when_it_would_help(
    codes: str, request_: Post, error: Exception | None, body: str
) -> None:
    logic = PlayedLogic(refuse_sign_in=error)
    answer = await new_posting(logic, codes=codes).post(request_)
    assert (answer.status, answer.body.decode()) == (200, body)
    assert logic.published == []


@pytest.mark.parametrize(
    ("request_", "grant", "status", "reason"),
    [
        (Post("good", None), Grant(7, "7"), 200, "malformed"),
        (post(room_id=""), Grant(7, "7"), 200, "missing_field"),
        (post(msg=""), Grant(7, "7"), 200, "missing_field"),
        (Post("good", {}), Grant(7, "7"), 200, "missing_field"),
        (post(key="k" * (MAX_KEY_CHARACTERS + 1)), Grant(7, "7"), 200, "key"),
        (post(room_id="a\n"), Grant(7, "7"), 200, "room_name"),
        (post(room_id="\udcff"), Grant(7, "7"), 200, "room_name"),
        (post(msg="x" * (MAX_DATA_BYTES - 1)), Grant(7, "7"), 413, "too_large"),
        (post(), Grant(7, "7", rooms=("b",)), 200, "may_not_join"),
        (post(), Grant(7, "7", may_post=False), 200, "may_not_post"),
        (post(), Grant(7, "7", may_important=False), 200, "may_not_important"),
    ],
)
async def test_what_may_not_be_is_refused_and_counted(
    request_: Post, grant: Grant, status: int, reason: str
) -> None:
    logic = PlayedLogic(grant=grant)
    posting = new_posting(logic)
    answer = await posting.post(request_)
    assert (answer.status, answer.code) == (status, 0)
    assert (answer == NO_PARAMETERS) == (reason in ("malformed", "missing_field", "key"))
    assert posting.statistics().refusals == {reason: 1}
    assert logic.published == []


async def test_message_of_the_largest_size_is_taken() -> None:
    logic = PlayedLogic()
    assert await new_posting(logic).post(post(msg="x" * (MAX_DATA_BYTES - 2))) is SUCCEEDED
    assert len(logic.published[0].data) == MAX_DATA_BYTES


@pytest.mark.parametrize(
    ("error", "expected", "reason"),
    [
        (Unavailable("the queue is away"), make_answer(0, "the queue is away"), "unavailable"),
        (Refused(Code.TOO_FAST, "slow"), make_answer(0, "slow", status=429), "publish_refused"),
        (Refused(Code.TOO_LARGE, "big"), make_answer(0, "big", status=413), "publish_refused"),
        (Refused(Code.UNAVAILABLE, "full"), make_answer(0, "full", status=503), "publish_refused"),
        (Refused(Code.FORBIDDEN, "no"), make_answer(0, "no"), "publish_refused"),
    ],
)
async def test_failed_publish_is_never_a_success(error: Exception, expected: Answer, reason: str) -> None:
    posting = new_posting(PlayedLogic(refuse_publish=error))
    assert await posting.post(post()) == expected
    assert posting.statistics().refusals == {reason: 1}
    assert posting.statistics().accepted == 0


async def test_queue_that_does_not_answer_is_waited_for_so_long(autojump_clock: trio.abc.Clock) -> None:
    logic = PlayedLogic(gate=trio.Event())
    posting = new_posting(logic, request_timeout_s=3.0)
    answer = await posting.post(post(key="k"))
    assert trio.current_time() == pytest.approx(3.0)
    assert (answer.status, answer.code) == (200, 0)
    assert posting.statistics().replays.running == 0


async def test_same_key_of_the_same_caller_is_stored_once(autojump_clock: trio.abc.Clock) -> None:
    logic = PlayedLogic()
    posting = new_posting(logic, replay_window_s=120.0)
    answers = [await posting.post(post(key="k")) for _ in range(3)]
    assert answers == [SUCCEEDED] * 3
    assert len(logic.published) == 1
    await posting.post(post(key="k", token="another"))
    await posting.post(post(key="l"))
    await posting.post(post())
    assert len(logic.published) == 4
    await trio.sleep(121)
    await posting.post(post(key="k"))
    assert len(logic.published) == 5
    assert posting.statistics().replays.replayed == 2


async def test_same_key_at_the_same_time_is_stored_once() -> None:
    logic = PlayedLogic(gate=trio.Event())
    posting, answers = new_posting(logic), list[Answer]()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(outcome, posting, post(key="k"), answers)
        await trio.testing.wait_all_tasks_blocked()
        assert (logic.waiting, answers) == (1, [])
        assert logic.gate is not None
        logic.gate.set()
    assert answers == [SUCCEEDED] * 5
    assert len(logic.published) == 1


async def test_failure_is_not_remembered_and_the_next_that_waits_tries() -> None:
    logic = PlayedLogic(gate=trio.Event(), refuse_publish=Unavailable("away"))
    posting, answers = new_posting(logic), list[Answer]()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(outcome, posting, post(key="k"), answers)
        await trio.testing.wait_all_tasks_blocked()
        first, logic.gate = logic.gate, trio.Event()
        assert first is not None
        first.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [answer.code for answer in answers] == [0]
        assert logic.waiting == 1
        logic.refuse_publish = None
        logic.gate.set()
    assert [answer.code for answer in answers] == [0, 1, 1]
    assert len(logic.published) == 1


async def test_cancelled_request_lets_the_next_try() -> None:
    logic = PlayedLogic(gate=trio.Event())
    posting, answers = new_posting(logic), list[Answer]()
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def gone() -> None:
            with first:
                await posting.post(post(key="k"))

        nursery.start_soon(gone)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(outcome, posting, post(key="k"), answers)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert logic.waiting == 1
        assert logic.gate is not None
        logic.gate.set()
    assert answers == [SUCCEEDED]
    assert posting.statistics().replays.running == 0
