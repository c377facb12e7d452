from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Ask(_message.Message):
    __slots__ = ("id", "body", "count", "sleep_s", "wish")
    ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SLEEP_S_FIELD_NUMBER: _ClassVar[int]
    WISH_FIELD_NUMBER: _ClassVar[int]
    id: int
    body: bytes
    count: int
    sleep_s: float
    wish: str
    def __init__(self, id: _Optional[int] = ..., body: _Optional[bytes] = ..., count: _Optional[int] = ..., sleep_s: _Optional[float] = ..., wish: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("id", "body")
    ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    id: int
    body: bytes
    def __init__(self, id: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...
