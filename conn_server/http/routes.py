"""`POST /msg`, `POST /tk` and the demo page (wire.md 1.2, HTTP); which socket they came on is not known here.

A request whose body is complete is finished also when its client has gone: the client will send it again,
and with an Idempotency-Key it then gets the answer to the first one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
from quart import Response, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from structlog.typing import FilteringBoundLogger
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge, RequestTimeout

from conn_server.http.answers import (
    FAILURE,
    NO_PARAMETERS,
    SUCCESS,
    Answer,
    make_answer,
    refusal,
)
from conn_server.http.demo import HEADERS as DEMO_HEADERS, read_pages
from conn_server.http.forms import MalformedForm, read_fields
from conn_server.http.posting import Post, Posting
from conn_server.rejection import cors_headers
from conn_server.settings import Http
from schema.access import Code

MAX_UID_BYTES: Final = 128
POSTED: Final = ("/msg", "/tk")


@dataclass(frozen=True, slots=True)
class HttpRouteStatistics:
    """Counts since the start.

    Attributes:
        requests: by route, HTTP status and the answer's code, such as "/msg 200 1".
        refusals: by reason, but for those of `Posting`.
        failures: handlers that raised, by type of exception; answered with 500.
    """

    requests: dict[str, int]
    refusals: dict[str, int]
    failures: dict[str, int]


class HttpRoutes:
    """The application behind `HttpFront`.  Owned by the conn server's app.

    Args:
        posting: behind `/msg`.
        settings: `[http]`.
        websocket_path: answered with 400: what is a WebSocket upgrade does not come here.
        issue: user name -> token, for `/tk`; None: off.
        demo: folder of the demo page; None: off.
        log: for handlers that raised.

    Attributes:
        app: what hypercorn calls.
    """

    def __init__(
        self,
        posting: Posting,
        settings: Http,
        *,
        websocket_path: str,
        issue: Callable[[str], str] | None,
        demo: Path | None,
        log: FilteringBoundLogger,
    ) -> None:
        self._posting = posting
        self._settings = settings
        self._issue = issue
        self._pages = read_pages(demo)
        self._log = log
        self._cors = cors_headers(settings.cors_origin)
        self._requests: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self.app = self._make_app(websocket_path)

    def statistics(self) -> HttpRouteStatistics:
        """Return the counts since the start."""
        return HttpRouteStatistics(dict(self._requests), dict(self._refusals), dict(self._failures))

    def _make_app(self, websocket_path: str) -> QuartTrio:
        app = _Application("conn", static_folder=None)
        app.url_map.merge_slashes = False  # /msg has one name
        app.config["MAX_CONTENT_LENGTH"] = self._settings.max_body_bytes
        app.config["BODY_TIMEOUT"] = self._settings.body_timeout_s
        app.config["RESPONSE_TIMEOUT"] = None  # the connection's writes have theirs
        handlers = {"/msg": self._post_message, "/tk": self._post_token}
        for path, handler in handlers.items():
            posted = self._posted(handler)
            app.add_url_rule(path, path, posted, methods=["POST"], provide_automatic_options=False)
            app.add_url_rule(path, f"{path} CORS", self._options, methods=["OPTIONS"])
        app.add_url_rule(websocket_path, "WebSocket", self._no_upgrade)
        for path in self._pages:
            app.add_url_rule(path, f"page {path}", self._page, provide_automatic_options=False)
        app.register_error_handler(HTTPException, self._refuse_request)
        app.register_error_handler(Exception, self._fail)
        return app

    # -- the requests

    async def _post_message(self) -> Answer:
        fields = await _read_fields()
        token = _bearer(request.headers.get("Authorization", ""))
        return await self._posting.post(Post(token, fields, request.headers.get("Idempotency-Key", "")))

    async def _post_token(self) -> Answer:
        fields = await _read_fields()
        if self._issue is None:
            self._refusals["issue_is_off"] += 1
            return make_answer(FAILURE, "this server does not issue tokens")
        uid = (fields or {}).get("uid", "")
        if not _is_user(uid):
            self._refusals["uid"] += 1
            return NO_PARAMETERS
        return make_answer(SUCCESS, "suc", data=self._issue(uid))

    async def _options(self) -> Response:
        return self._respond(Answer(200))

    async def _no_upgrade(self) -> Response:
        self._refusals["no_upgrade"] += 1
        return self._respond(make_answer(FAILURE, "not a WebSocket upgrade", status=400))

    async def _page(self) -> Response:
        page = self._pages[request.path]
        response = self._respond(Answer(200, None, page.body, page.content_type))
        response.headers.update(DEMO_HEADERS)
        return response

    # -- what they have in common

    def _posted(self, handler: Callable[[], Awaitable[Answer]]) -> Callable[[], Awaitable[Response]]:
        async def respond() -> Response:
            return self._respond(await handler())

        return respond

    async def _refuse_request(self, error: HTTPException) -> Response:
        """Answer what was refused before its handler had it all: 404, 405, 408, 413."""
        if isinstance(error, MethodNotAllowed):
            response = self._respond(Answer(405))
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
            return response
        if isinstance(error, RequestEntityTooLarge):
            self._refusals["body_too_large"] += 1
            text = f"the body is over {self._settings.max_body_bytes} bytes"
            return self._respond(refusal(Code.TOO_LARGE, text))
        if isinstance(error, RequestTimeout):
            self._refusals["body_timeout"] += 1
        return self._respond(make_answer(FAILURE, error.name.lower(), status=error.code or 400))

    async def _fail(self, error: Exception) -> Response:
        self._failures[type(error).__name__] += 1
        self._log.error("http request failed", path=request.path, exc_info=error)
        return self._respond(make_answer(FAILURE, "internal error", status=500))

    def _respond(self, answer: Answer) -> Response:
        """Make the response, and count it."""
        is_posted = request.path in POSTED
        route = request.path if is_posted or request.path in self._pages else "other"
        counted = (route, answer.status) if answer.code is None else (route, answer.status, answer.code)
        self._requests[" ".join(map(str, counted))] += 1
        response = Response(answer.body, status=answer.status, content_type=answer.content_type)
        if answer.retry_after_s is not None:
            response.headers["Retry-After"] = str(answer.retry_after_s)
        if is_posted:
            response.headers.update(self._cors)
        return response


class _Exchange(TrioASGIHTTPConnection):
    """One request.  quart-trio cancels it when its client goes; here only while its body is not complete."""

    async def handle_messages(  # type: ignore[override]
        self, nursery: trio.Nursery, request: Any, receive: Any
    ) -> None:
        is_complete, received_bytes = False, 0

        async def receive_until_complete() -> Any:
            nonlocal is_complete, received_bytes
            message = await receive()
            if message["type"] == "http.request":
                is_complete = not message.get("more_body", False)
                received_bytes += len(message.get("body", b""))
                if received_bytes > self.app.config["MAX_CONTENT_LENGTH"]:
                    # quart 0.23 would look at the size at the body's end, and keep all of it until then.
                    request.body._must_raise = RequestEntityTooLarge()
                    request.body.set_complete()
                    await trio.sleep_forever()  # until the response is sent, which cancels us
            elif is_complete:
                await trio.sleep_forever()  # the same
            return message

        await super().handle_messages(nursery, request, receive_until_complete)


class _Application(QuartTrio):
    asgi_http_class = _Exchange


async def _read_fields() -> dict[str, str] | None:
    """Wait for the body and return its fields, None if it has none that can be read."""
    body = await request.get_data()
    try:
        return read_fields(bytes(body), request.mimetype, request.mimetype_params)  # type: ignore[arg-type]
    except MalformedForm:
        return None


def _bearer(header: str) -> str:
    """Return the token of an Authorization header, empty if there is none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_user(uid: str) -> bool:
    """Say whether `uid` may be in a token: 1 to 128 bytes of UTF-8."""
    try:
        return 0 < len(uid.encode()) <= MAX_UID_BYTES
    except UnicodeEncodeError:
        return False
