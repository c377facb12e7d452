from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from conn_server.http.forms import MAX_FIELDS, MalformedForm, read_fields
from schema.gojson import encode_string

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
JSON = "application/json"
BOUNDARY = {"boundary": "b"}


def part(name: str, value: bytes, more: str = "") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (
        name.encode(),
        more.encode(),
        value,
    )


@pytest.mark.parametrize(
    ("body", "mimetype", "fields"),
    [
        (b"room_id=a&msg=hi", URLENCODED, {"room_id": "a", "msg": "hi"}),
        (b"room_id=a&msg=hi", "", {"room_id": "a", "msg": "hi"}),
        (b"msg=a+b%26c%E7%BE%A4&room_id=", URLENCODED, {"msg": "a b&c群", "room_id": ""}),
        ("msg=群".encode(), URLENCODED, {"msg": "群"}),
        (b"msg=first&msg=second", URLENCODED, {"msg": "first"}),
        (b"", URLENCODED, {}),
        (part("room_id", b"a") + part("msg", "群\r\n".encode()) + b"--b--\r\n", MULTIPART,
         {"room_id": "a", "msg": "群\r\n"}),
        (part("msg", b"1") + part("msg", b"2") + b"--b--", MULTIPART, {"msg": "1"}),
        (part("msg", b"file", '; filename="x"') + part("uid", b"7") + b"--b--", MULTIPART, {"uid": "7"}),
        ('{"room_id":"a","msg":"群","more":[1]}'.encode(), JSON, {"room_id": "a", "msg": "群", "uid": ""}),
    ],
)  # fmt: skip
def test_fields_are_read(body: bytes, mimetype: str, fields: dict[str, str]) -> None:
    assert read_fields(body, mimetype, BOUNDARY) == fields


@pytest.mark.parametrize(
    ("body", "mimetype", "parameters"),
    [
        (b"&".join(b"f%d=1" % n for n in range(MAX_FIELDS + 1)), URLENCODED, {}),
        (b"".join(part("f", b"1") for _ in range(MAX_FIELDS + 1)) + b"--b--", MULTIPART, BOUNDARY),
        (part("msg", b"1"), MULTIPART, BOUNDARY),  # no end
        (b"--b\r\nX: y\r\n\r\n1\r\n--b--", MULTIPART, BOUNDARY),  # a part without a name
        (part("msg", b"1") + b"--b--", MULTIPART, {}),
        (b"", MULTIPART, BOUNDARY),
        (b'{"room_id":1}', JSON, {}),
        (b'{"room_id":null}', JSON, {}),
        (b"[]", JSON, {}),
        (b"{", JSON, {}),
        (b"", JSON, {}),
        (b'{"msg":"\xff"}', JSON, {}),
        (b'{"msg":"\\ud800"}', JSON, {}),
        (b'{"x":' + b"[" * 100_000, JSON, {}),
        (b"msg=1", "text/plain", {}),
    ],
)
def test_what_cannot_be_read_is_said_so(body: bytes, mimetype: str, parameters: dict[str, str]) -> None:
    with pytest.raises(MalformedForm):
        read_fields(body, mimetype, parameters)


@pytest.mark.parametrize(
    ("body", "mimetype"),
    [
        (b"msg=a%FF%E4%BDb", URLENCODED),
        (b"msg=a\xff\xe4\xbdb", URLENCODED),
        (part("msg", b"a\xff\xe4\xbdb") + b"--b--", MULTIPART),
    ],
)
def test_each_byte_that_is_not_utf8_is_written_as_go_writes_it(body: bytes, mimetype: str) -> None:
    assert encode_string(read_fields(body, mimetype, BOUNDARY)["msg"]) == b'"a\\ufffd\\ufffd\\ufffdb"'


@given(st.binary(max_size=200), st.sampled_from([URLENCODED, MULTIPART, JSON, ""]))
def test_no_body_does_anything_but_be_read_or_refused(body: bytes, mimetype: str) -> None:
    for given_body in (body, b"--b\r\n" + body, part("msg", body)):
        try:
            fields = read_fields(given_body, mimetype, BOUNDARY)
        except MalformedForm:
            continue
        assert all(isinstance(value, str) for value in fields.values())


@given(st.text(min_size=1, max_size=50).filter(lambda text: text.isprintable()))
def test_text_comes_out_of_all_notations_alike(text: str) -> None:
    from json import dumps
    from urllib.parse import urlencode

    bodies = {
        URLENCODED: urlencode({"msg": text}).encode(),
        MULTIPART: part("msg", text.encode()) + b"--b--",
        JSON: dumps({"msg": text}).encode(),
    }
    assert {read_fields(body, kind, BOUNDARY)["msg"] for kind, body in bodies.items()} == {text}
