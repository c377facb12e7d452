r"""The JSON encoding of a string, as Go's encoding/json writes it.

`POST /msg` pushes its `msg` in this form.  Go escapes `<`, `>`, `&`, U+2028 and U+2029 for the sake
of HTML, writes `\b \f \n \r \t` short and other controls as `\u00xx`, invalid UTF-8 as `\ufffd`,
and everything else as it is.  Golden vectors: tests/vectors/gojson.json.
"""

from __future__ import annotations

import re
from typing import Final

_SHORT: Final = {
    '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"
}  # fmt: skip
_ESCAPED: Final = re.compile('[\x00-\x1f"\\\\<>&\u2028\u2029\ud800-\udfff]')


def _escape(match: re.Match[str]) -> str:
    ch = match.group()
    if "\ud800" <= ch <= "\udfff":  # a byte that was not UTF-8 (surrogateescape), or half a pair
        return "\\ufffd"
    return _SHORT.get(ch) or f"\\u{ord(ch):04x}"


def encode_string(text: str | bytes) -> bytes:
    """Return `text` as a JSON string in UTF-8; of bytes, each that is not UTF-8 becomes U+FFFD."""
    if isinstance(text, bytes):
        text = text.decode(errors="surrogateescape")
    return f'"{_ESCAPED.sub(_escape, text)}"'.encode()
