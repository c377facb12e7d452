"""Messages as bytes and back, with gRPC's prefix."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError
from grpclib.encoding.base import CodecBase

from runtime.rpc.errors import RpcError, Status

MessageType = TypeVar("MessageType")


def encode_message(codec: CodecBase, message: Any, message_type: Any) -> bytes:
    """Return `message` as it goes on the wire: ``0 | length(4, big-endian) | message``.

    Raises:
        TypeError: it is not of the method's type.
    """
    body: bytes = codec.encode(message, message_type)
    return b"\0" + len(body).to_bytes(4, "big") + body


def decode_message(codec: CodecBase, body: bytes, message_type: type[MessageType]) -> MessageType:
    """Return what `body` (without prefix) stands for.

    Raises:
        RpcError: INTERNAL: it does not stand for anything.
    """
    try:
        return cast("MessageType", codec.decode(body, message_type))
    except DecodeError as error:
        raise RpcError(Status.INTERNAL, "a message cannot be decoded") from error
