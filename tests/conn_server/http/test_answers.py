from __future__ import annotations

import pytest

from conn_server.http.answers import NO_PARAMETERS, SIGN_IN, SUCCEEDED, make_answer, refusal
from schema.access import Code


def test_answers_are_those_of_the_contract_byte_for_byte() -> None:
    assert SUCCEEDED.body == b'{"code":1,"msg":"suc"}'
    assert SIGN_IN.body.decode() == '{"code":1001,"msg":"请登录"}'
    assert NO_PARAMETERS.body.decode() == '{"code":0,"msg":"参数错误"}'
    assert make_answer(1, "suc", data="a.b.c").body == b'{"code":1,"data":"a.b.c","msg":"suc"}'
    assert {SUCCEEDED.status, SIGN_IN.status, NO_PARAMETERS.status} == {200}


def test_texts_are_written_as_go_writes_them() -> None:
    assert make_answer(0, '<"\u2028>').body == b'{"code":0,"msg":"\\u003c\\"\\u2028\\u003e"}'


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.NOT_SIGNED_IN, 200),
        (Code.BAD_REQUEST, 200),
        (Code.FORBIDDEN, 200),
        (Code.TOO_LARGE, 413),
        (Code.TOO_FAST, 429),
        (Code.UNAVAILABLE, 503),
    ],
)
def test_only_limits_show_in_the_status_and_say_when_to_come_back(code: Code, status: int) -> None:
    answer = refusal(code, "no")
    assert (answer.status, answer.code, answer.body) == (status, 0, b'{"code":0,"msg":"no"}')
    assert (answer.retry_after_s is not None) == (status != 200)
