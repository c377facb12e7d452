"""Every row of the HTTP table of the wire contract, with a real client on a real socket."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import httpx2
import pytest
import trio
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody

from schema.access import Unavailable
from schema.message import Level
from tests.conn_server.http.serving import TOKEN, http_port, read_answer, read_to_end

pytestmark = pytest.mark.usefixtures("no_leaks")

DEMO = Path(__file__).resolve().parents[3] / "clients" / "js"
FIELDS = {"room_id": "a", "msg": '{"type":1} 群 <&>'}
ENCODED = '"{\\"type\\":1} 群 \\u003c\\u0026\\u003e"'.encode()
CORS = ("Access-Control-Allow-Origin", "Access-Control-Allow-Headers", "Access-Control-Allow-Methods")


@pytest.mark.parametrize("notation", ["urlencoded", "multipart", "json"])
async def test_message_is_taken_in_every_notation(notation: str) -> None:
    async with http_port() as served, served.client() as client:
        if notation == "urlencoded":
            answer = await client.post("/msg", data=FIELDS, headers=TOKEN)
        elif notation == "multipart":
            files = {name: (None, value) for name, value in FIELDS.items()}
            answer = await client.post("/msg", files=files, headers=TOKEN)
        else:
            answer = await client.post("/msg", json=FIELDS, headers=TOKEN)
        assert (answer.status_code, answer.content) == (200, b'{"code":1,"msg":"suc"}')
        assert answer.headers["Content-Type"] == "application/json"
        (message,) = served.logic.published
        assert (message.room, message.level, message.data) == ("a", Level.IMPORTANT, ENCODED)
        assert message.sender == "7"
        assert served.routes.statistics().requests == {"/msg 200 1": 1}


@pytest.mark.parametrize(
    ("headers", "content", "body"),
    [
        pytest.param({}, "room_id=a&msg=b", '{"code":1001,"msg":"请登录"}', id="no token"),
        pytest.param(
            {"Authorization": "Basic x"}, "room_id=a&msg=b", '{"code":1001,"msg":"请登录"}', id="not Bearer"
        ),
        pytest.param(
            {"Authorization": "Bearer bad"}, "room_id=a&msg=b", '{"code":1001,"msg":"请登录"}', id="bad token"
        ),
        pytest.param(TOKEN, "msg=b", '{"code":0,"msg":"参数错误"}', id="no room"),
        pytest.param(TOKEN, "room_id=a", '{"code":0,"msg":"参数错误"}', id="no msg"),
        pytest.param(TOKEN, "", '{"code":0,"msg":"参数错误"}', id="no body"),
    ],
)
async def test_refusals_are_answered_with_200(headers: dict[str, str], content: str, body: str) -> None:
    async with http_port() as served, served.client() as client:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await client.post("/msg", content=content, headers=headers | form)
        assert (answer.status_code, answer.text) == (200, body)
        assert answer.headers["Content-Type"] == "application/json"
        assert sum(served.posting.statistics().refusals.values()) == 1


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"room_id":1,"msg":"b"}'])
async def test_bad_json_is_answered_clearly_and_counted(content: bytes) -> None:
    async with http_port() as served, served.client() as client:
        headers = TOKEN | {"Content-Type": "application/json"}
        answer = await client.post("/msg", content=content, headers=headers)
        assert (answer.status_code, answer.text) == (200, '{"code":0,"msg":"参数错误"}')
        assert served.posting.statistics().refusals == {"malformed": 1}


async def test_logic_that_is_away_logs_nobody_out() -> None:
    async with http_port() as served, served.client() as client:
        served.logic.refuse_sign_in = Unavailable("nobody there")
        answer = await client.post("/msg", data=FIELDS, headers=TOKEN)
        assert (answer.status_code, answer.content) == (200, b'{"code":0,"msg":"nobody there"}')


@pytest.mark.parametrize("path", ["/msg", "/tk"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "BREW"])
async def test_other_methods_get_405_and_an_empty_body(path: str, method: str) -> None:
    async with http_port() as served, served.client() as client:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.content) == (405, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Allow"] == "OPTIONS, POST"
        assert served.routes.statistics().requests == {f"{path} 405": 1}


@pytest.mark.parametrize("path", ["/msg", "/tk"])
async def test_browsers_of_other_pages_may_ask(path: str) -> None:
    async with http_port() as served, served.client() as client:
        answer = await client.options(path, headers={"Origin": "https://x"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert all(name in answer.headers for name in CORS)
        assert "Access-Control-Allow-Credentials" not in answer.headers
        posted = await client.post(path)
        assert all(name in posted.headers for name in CORS)


async def test_one_origin_may_ask_with_credentials() -> None:
    async with http_port(cors_origin="https://chat.example") as served, served.client() as client:
        answer = await client.options("/msg")
        assert answer.headers["Access-Control-Allow-Origin"] == "https://chat.example"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"


async def test_go_codes_are_answered_when_asked_for() -> None:
    async with http_port(codes="go") as served, served.client() as client:
        assert (await client.post("/msg", data=FIELDS)).text == '{"code":0,"msg":"无效token"}'


async def test_token_is_issued_where_that_is_on() -> None:
    async with http_port(issue=lambda uid: f"for.{uid}") as served, served.client() as client:
        for answer in (
            await client.post("/tk", data={"uid": "7"}),
            await client.post("/tk", json={"uid": "7"}),
        ):
            assert answer.content == b'{"code":1,"data":"for.7","msg":"suc"}'
        for uid in ("", "x" * 129):
            assert (await client.post("/tk", data={"uid": uid})).text == '{"code":0,"msg":"参数错误"}'
        assert served.routes.statistics().refusals == {"uid": 2}


async def test_token_is_not_issued_by_default() -> None:
    async with http_port() as served, served.client() as client:
        answer = await client.post("/tk", data={"uid": "7"})
        assert answer.status_code == 200
        assert json.loads(answer.content) == {"code": 0, "msg": "this server does not issue tokens"}
        assert served.routes.statistics().refusals == {"issue_is_off": 1}


async def test_body_over_the_limit_is_refused_by_its_announced_length() -> None:
    async with http_port(max_body_bytes=100) as served, await served.connect() as stream:
        await stream.send_all(b"POST /msg HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n")
        status, headers, body = await read_answer(stream)
        assert (status, headers["retry-after"]) == (413, "5")
        assert body == b'{"code":0,"msg":"the body is over 100 bytes"}'
        assert headers["access-control-allow-origin"] == "*"
        assert served.routes.statistics().refusals == {"body_too_large": 1}


async def test_body_over_the_limit_is_refused_also_in_chunks() -> None:
    async with http_port(max_body_bytes=100) as served, await served.connect() as stream:
        await stream.send_all(b"POST /msg HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await stream.send_all(b"28\r\n" + b"x" * 40 + b"\r\n")
        assert (await read_answer(stream))[0] == 413


async def test_message_over_the_limit_is_413_with_the_same_json() -> None:
    async with http_port() as served, served.client() as client:
        answer = await client.post("/msg", data={"room_id": "a", "msg": "x" * 1000}, headers=TOKEN)
        assert (answer.status_code, answer.headers["Retry-After"]) == (413, "5")
        assert answer.json() == {"code": 0, "msg": "the message is over 1000 bytes"}


async def test_body_that_does_not_come_is_answered_with_408() -> None:
    async with http_port(body_timeout_s=0.1) as served, await served.connect() as stream:
        await stream.send_all(b"POST /msg HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nroom")
        status, _, body = await read_answer(stream)
        assert (status, body) == (408, b'{"code":0,"msg":"request timeout"}')
        assert await read_to_end(stream) == b""
        assert served.routes.statistics().refusals == {"body_timeout": 1}


async def test_queue_that_does_not_answer_has_a_deadline() -> None:
    async with http_port(request_timeout_s=0.1) as served, served.client() as client:
        served.logic.gate = trio.Event()
        answer = await client.post("/msg", data=FIELDS, headers=TOKEN)
        assert (answer.status_code, answer.json()["code"]) == (200, 0)


@pytest.mark.parametrize("path", ["/", "/nothing", "/msg/", "//msg", "/index.html", "/static/x", "/room/x"])
async def test_other_paths_are_not_found(path: str) -> None:
    async with http_port() as served, served.client() as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.content) == (404, b'{"code":0,"msg":"not found"}')
        assert served.routes.statistics().requests == {"other 404 0": 1}


async def test_plain_request_of_the_websocket_path_is_400() -> None:
    async with http_port() as served, served.client() as client:
        assert (await client.get("/room?x=1")).status_code == 400
        assert served.routes.statistics().refusals == {"no_upgrade": 1}


async def test_demo_page_and_its_files_are_served_under_a_strict_policy() -> None:
    async with http_port(demo=DEMO) as served, served.client() as client:
        for path, file in (("/", "index.html"), ("/app.js", "app.js"), ("/style.css", "style.css")):
            answer = await client.get(path)
            assert (answer.status_code, answer.content) == (200, (DEMO / file).read_bytes())
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await client.head("/")).content == b""
        assert (await client.post("/")).status_code == 405


@pytest.mark.parametrize(
    "target",
    [b"/../python/client.py", b"/%2e%2e/__init__.py", b"/..%2f__init__.py", b"//etc/passwd", b"/js/"],
)
async def test_nothing_but_the_pages_can_be_read(target: bytes) -> None:
    async with http_port(demo=DEMO) as served, await served.connect() as stream:
        await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert (await read_answer(stream))[0] == 404


async def test_handler_that_raises_is_answered_with_500_and_ends_nothing() -> None:
    def fail(uid: str) -> str:
        raise ZeroDivisionError

    async with http_port(issue=fail) as served, served.client() as client:
        answer = await client.post("/tk", data={"uid": "7"})
        assert (answer.status_code, answer.content) == (500, b'{"code":0,"msg":"internal error"}')
        assert served.routes.statistics().failures == {"ZeroDivisionError": 1}
        (call,) = served.log.calls
        assert call.method_name == "error"
        assert (await client.post("/msg", data=FIELDS, headers=TOKEN)).json()["code"] == 1


def test_hooked_names_of_quart_trio_are_as_they_were() -> None:
    def parameters(function: object) -> list[str]:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]

    assert QuartTrio.asgi_http_class is TrioASGIHTTPConnection
    assert "self.handle_messages, nursery, request, receive" in inspect.getsource(
        TrioASGIHTTPConnection.__call__
    )
    assert parameters(TrioASGIHTTPConnection.handle_messages) == ["self", "nursery", "request", "receive"]
    assert parameters(TrioBody.put if hasattr(TrioBody, "put") else TrioBody.append) == ["self", "data"]
    assert "self._must_raise" in inspect.getsource(TrioBody.__init__)
    assert parameters(TrioBody.set_complete) == ["self"]


async def test_request_is_finished_although_its_client_has_gone() -> None:
    # Its client will try again, and the key must then find that the first one was stored.
    async with http_port() as served:
        served.logic.gate = trio.Event()
        stream = await served.connect()
        await stream.send_all(
            b"POST /msg HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nIdempotency-Key: k\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 15\r\n\r\nroom_id=a&msg=b"
        )
        await served.until(lambda: served.logic.waiting == 1)
        await stream.aclose()
        async with served.client() as client, trio.open_nursery() as nursery:
            answers: list[httpx2.Response] = []

            async def again() -> None:
                headers = TOKEN | {"Idempotency-Key": "k"}
                fields = {"room_id": "a", "msg": "b"}
                answers.append(await client.post("/msg", data=fields, headers=headers))

            nursery.start_soon(again)
            await served.until(lambda: served.front.statistics().taken == 2)
            served.logic.gate.set()
        assert answers[0].content == b'{"code":1,"msg":"suc"}'
        assert [message.origin_seq for message in served.logic.published] == [1]
        assert served.posting.statistics().replays.replayed == 1


async def test_client_that_goes_before_its_body_is_complete_frees_its_place_at_once() -> None:
    async with http_port() as served:
        stream = await served.connect()
        await stream.send_all(b"POST /msg HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\nroom")
        await served.until(lambda: served.front.statistics().open == 1)
        await stream.aclose()
        await served.until(lambda: served.front.statistics().open == 0)
        assert served.routes.statistics().failures == {}
