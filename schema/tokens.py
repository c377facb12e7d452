"""Issue and verify tokens.  Pure: the secret and `now` (Unix seconds) are injected.

Rules
1. The algorithm is HS256, pinned by the key: what a token's header asks for is never done.  PyJWT judges,
   but for tokens with the Go system's very header and the very signature that we would make.
2. Nothing of a token is looked into before its signature holds: whatever is wrong until then is
   `signature is invalid`.  Only the number of segments is told apart, as the Go system does.
3. Then, in this order: types (`无效token`), `nbf`, `iat`, `exp`.  Times count in whole seconds;
   a token is still valid in the second of its `exp`.
4. The Go system's claims are `rtm iat exp ctm uid`.  `rooms`, `post` and `important` are additional:
   without them all is allowed, of a wrong type they are refused, and so is a list of no rooms (an
   empty `Grant.rooms` would allow all of them).

    eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9 . {"rtm":"test","iat":…,"exp":…,"ctm":"","uid":"42"} . HMAC

The golden tokens, made and judged by the Go system's own code, are in tests/vectors/jwt.json.
"""

from __future__ import annotations

import hmac
import re
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, NoReturn

from jwt.algorithms import HMACAlgorithm
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidKeyError, InvalidTokenError
from msgspec import Meta, MsgspecError, Struct
from msgspec.json import Decoder

from schema.access import BAD_SEGMENTS, BAD_SIGNATURE, EXPIRED, INVALID, NOT_YET_VALID, Code, Grant, Refused
from schema.gojson import encode_string

LIFETIME_S: Final = 86400
MIN_KEY_BYTES: Final = 32  # RFC 7518 section 3.2: as long as the hash

_ALGORITHM: Final = "HS256"
_SEGMENTS: Final = 3
_HEADER: Final = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."  # {"alg":"HS256","typ":"JWT"}
_DECIMAL: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_INT64_MAX: Final = 2**63 - 1
_TO_BASE64URL: Final = bytes.maketrans(b"+/", b"-_")
_OF_BASE64URL: Final = bytes.maketrans(b"-_", b"+/")
_INT32_DIGITS: Final = 10
_INT64_DIGITS: Final = 19

_Int64 = Annotated[int, Meta(ge=-(2**63), le=_INT64_MAX)]


class _Claims(Struct):
    """What a token says; unknown claims are ignored, null is as good as absent where Go thinks so."""

    uid: str
    iat: _Int64 | None = None
    exp: _Int64 | None = None
    nbf: int | float | None = None
    rooms: Annotated[list[str], Meta(min_length=1)] | None = None
    post: bool | None = None
    important: bool | None = None


_READ_CLAIMS: Final = Decoder(_Claims).decode


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Counts since the start; `refused` by reason."""

    issued: int
    accepted: int
    refused: Mapping[str, int]


class TokenAuthority:
    """Issues and verifies the tokens of one secret.  Owned by a logic server; lives as long.

    Args:
        secret: a key that `check_key` has accepted.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._jws = PyJWS(algorithms=[])
        self._jws.register_algorithm(_ALGORITHM, _Hs256(HMACAlgorithm.SHA256))
        self._issued = 0
        self._accepted = 0
        self._refused: Counter[str] = Counter()

    def __repr__(self) -> str:
        return "TokenAuthority(secret=***)"

    def issue(self, uid: str, now: float) -> str:
        """Return a token for `uid` that is valid from `now` for a day; byte for byte the Go system's."""
        iat = int(now)
        claims = b'{"rtm":"test","iat":%d,"exp":%d,"ctm":"","uid":%s}' % (
            iat,
            iat + LIFETIME_S,
            encode_string(uid),
        )
        self._issued += 1
        return self._jws.encode(claims, self._secret, algorithm=_ALGORITHM)

    def verify(self, token: str, now: float) -> Grant:
        """Return what `token` allows.

        Raises:
            Refused: with NOT_SIGNED_IN and the text of wire part 1.3.
        """
        claims, seconds = self._claims(token), int(now)
        if claims.nbf is not None and seconds < int(claims.nbf):
            self._refuse("not_yet_valid", NOT_YET_VALID)
        if (claims.iat or 0) > seconds:
            self._refuse("issued_in_the_future", INVALID)
        expires_at_s = claims.exp or 0
        if expires_at_s < seconds:
            self._refuse("expired", EXPIRED)
        self._accepted += 1
        return Grant(
            uid=_number(claims.uid),
            user=claims.uid,
            expires_at_s=expires_at_s,
            rooms=tuple(claims.rooms or ()),
            may_post=claims.post is not False,
            may_important=claims.important is not False,
        )

    def statistics(self) -> TokenStatistics:
        """Return the counts since the start."""
        return TokenStatistics(self._issued, self._accepted, dict(self._refused))

    def _claims(self, token: str) -> _Claims:
        if token.count(".") != _SEGMENTS - 1:
            self._refuse("segments", BAD_SEGMENTS)
        payload = self._plain_payload(token)
        if payload is None:
            try:
                payload = self._jws.decode(token, self._secret, algorithms=[_ALGORITHM])
            except (InvalidTokenError, UnicodeEncodeError):
                self._refuse("signature", BAD_SIGNATURE)
        try:
            return _READ_CLAIMS(payload)
        except (MsgspecError, UnicodeDecodeError, RecursionError):
            self._refuse("claims", INVALID)

    def _plain_payload(self, token: str) -> bytes | None:
        """Return the payload of a token that is signed as ours are, None for PyJWT to judge.

        PyJWT takes 50 us, most of them for looking at each character: a fifth of a client's connect, upgrade
        and sign-in.  This takes 7, and accepts less: our very header, and the very signature over it.
        """
        signed, _, signature = token.rpartition(".")
        if not signed.startswith(_HEADER) or not signed.isascii() or not signature.isascii():
            return None
        expected = _in_base64url(hmac.digest(self._secret, signed.encode(), "sha256"))
        if not hmac.compare_digest(expected, signature.encode()):
            return None
        payload = signed[len(_HEADER) :].encode()
        try:
            decoded = a2b_base64((payload + b"=" * (-len(payload) % 4)).translate(_OF_BASE64URL))
        except ValueError:
            return None
        return decoded if _in_base64url(decoded) == payload else None

    def _refuse(self, reason: str, text: str) -> NoReturn:
        self._refused[reason] += 1
        raise Refused(Code.NOT_SIGNED_IN, text)


def check_key(secret: bytes, *, allow_short: bool) -> str | None:
    """Look at a secret once, at the start; return what to warn about, if anything.

    Args:
        secret: the key's bytes; they never get into a text.
        allow_short: take a key under 32 bytes, as the Go system's is.

    Raises:
        ValueError: it must not be used.
    """
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError as exc:  # empty; or a public key, with which anybody could sign
        raise ValueError(f"the token secret cannot be used: {exc}") from None
    if len(secret) >= MIN_KEY_BYTES:
        return None
    problem = f"the token secret has {len(secret)} bytes, fewer than {MIN_KEY_BYTES}"
    if not allow_short:
        raise ValueError(f"{problem}; [token] allow_short_key = true takes it")
    return f"{problem}, and [token] allow_short_key takes it: change it when no Go server needs it any more"


class _Hs256(HMACAlgorithm):
    """HS256 with a key that was checked once by `check_key`; PyJWT would do so for every token."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> None:
        return None


def _in_base64url(data: bytes) -> bytes:
    """Encode without padding (RFC 7515 section 2); `base64` takes three calls of Python for it."""
    return b2a_base64(data, newline=False).translate(_TO_BASE64URL).rstrip(b"=")


def _number(uid: str) -> int:
    """Return a uid as the Go system's int32: 0 of text, cut to 32 bits as strconv.Atoi and int32() do."""
    if uid.isascii() and uid.isdigit() and len(uid) < _INT32_DIGITS:  # nearly all
        return int(uid)
    if not _DECIMAL.fullmatch(uid):
        return 0
    digits = uid.lstrip("+-").lstrip("0") or "0"
    size = int(digits) if len(digits) <= _INT64_DIGITS else _INT64_MAX + 1
    number = max(-size, -_INT64_MAX - 1) if uid.startswith("-") else min(size, _INT64_MAX)
    return (number + 2**31) % 2**32 - 2**31
