"""The fields of a request's body: urlencoded or multipart, as the Go system takes them, or JSON.  Pure.

A byte that is not UTF-8 comes out as a lone surrogate (surrogateescape), which `schema.gojson` writes as
Go does.  Of several fields with one name the first counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

MAX_FIELDS: Final = 64
_URLENCODED: Final = ("", "application/x-www-form-urlencoded")
_MULTIPART: Final = "multipart/form-data"
_JSON: Final = "application/json"


class MalformedForm(ValueError):
    """The body is not what its content type says."""


class _Json(msgspec.Struct):
    room_id: str = ""
    msg: str = ""
    uid: str = ""


def read_fields(body: bytes, mimetype: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return name -> value.

    Args:
        body: all of it.
        mimetype: in lower case, empty if there is none.
        parameters: those of the content type; of these only `boundary` counts.

    Raises:
        MalformedForm: it cannot be read, has over 64 fields, or is of no known type.
    """
    try:
        if mimetype in _URLENCODED:
            pairs = _read_urlencoded(body)
        elif mimetype == _MULTIPART:
            pairs = list(_read_multipart(body, parameters.get("boundary", "").encode()))
        elif mimetype == _JSON:
            return msgspec.structs.asdict(msgspec.json.decode(body, type=_Json))
        else:
            raise MalformedForm(f"not a form: {mimetype}")
    except (ValueError, RecursionError, RequestEntityTooLarge) as exc:  # msgspec's errors are ValueErrors
        raise MalformedForm(str(exc)) from exc
    return dict(reversed(pairs))


def _read_urlencoded(body: bytes) -> list[tuple[str, str]]:
    text = body.decode(errors="surrogateescape")
    return parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_FIELDS)


def _read_multipart(body: bytes, boundary: bytes) -> Iterator[tuple[str, str]]:
    if not boundary:
        raise MalformedForm("multipart without a boundary")
    decoder = MultipartDecoder(boundary, max_parts=MAX_FIELDS)
    decoder.receive_data(body)
    decoder.receive_data(None)
    name: str | None = None
    pieces: list[bytes] = []
    while not isinstance(event := decoder.next_event(), Epilogue | NeedData):
        if isinstance(event, Field | File):  # an uploaded file is no field
            name, pieces = event.name if isinstance(event, Field) else None, []
        elif isinstance(event, Data) and name is not None:
            pieces.append(event.data)
            if not event.more_data:
                yield name, b"".join(pieces).decode(errors="surrogateescape")
