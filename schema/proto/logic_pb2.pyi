from schema.proto import conn_pb2 as _conn_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuthReq(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class AuthReply(_message.Message):
    __slots__ = ("uid", "nickname", "roomID", "expires_at_s", "rooms", "may_post", "may_important")
    UID_FIELD_NUMBER: _ClassVar[int]
    NICKNAME_FIELD_NUMBER: _ClassVar[int]
    ROOMID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_S_FIELD_NUMBER: _ClassVar[int]
    ROOMS_FIELD_NUMBER: _ClassVar[int]
    MAY_POST_FIELD_NUMBER: _ClassVar[int]
    MAY_IMPORTANT_FIELD_NUMBER: _ClassVar[int]
    uid: int
    nickname: str
    roomID: str
    expires_at_s: int
    rooms: _containers.RepeatedScalarFieldContainer[str]
    may_post: bool
    may_important: bool
    def __init__(self, uid: _Optional[int] = ..., nickname: _Optional[str] = ..., roomID: _Optional[str] = ..., expires_at_s: _Optional[int] = ..., rooms: _Optional[_Iterable[str]] = ..., may_post: _Optional[bool] = ..., may_important: _Optional[bool] = ...) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("sign_ins", "publishes")
    class SignIn(_message.Message):
        __slots__ = ("id", "token")
        ID_FIELD_NUMBER: _ClassVar[int]
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        id: int
        token: str
        def __init__(self, id: _Optional[int] = ..., token: _Optional[str] = ...) -> None: ...
    class Publish(_message.Message):
        __slots__ = ("id", "body")
        ID_FIELD_NUMBER: _ClassVar[int]
        BODY_FIELD_NUMBER: _ClassVar[int]
        id: int
        body: bytes
        def __init__(self, id: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...
    SIGN_INS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHES_FIELD_NUMBER: _ClassVar[int]
    sign_ins: _containers.RepeatedCompositeFieldContainer[LinkRequest.SignIn]
    publishes: _containers.RepeatedCompositeFieldContainer[LinkRequest.Publish]
    def __init__(self, sign_ins: _Optional[_Iterable[_Union[LinkRequest.SignIn, _Mapping]]] = ..., publishes: _Optional[_Iterable[_Union[LinkRequest.Publish, _Mapping]]] = ...) -> None: ...

class LinkReply(_message.Message):
    __slots__ = ("window", "leaving", "stored", "granted", "not_done")
    class Window(_message.Message):
        __slots__ = ("items", "bytes")
        ITEMS_FIELD_NUMBER: _ClassVar[int]
        BYTES_FIELD_NUMBER: _ClassVar[int]
        items: int
        bytes: int
        def __init__(self, items: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...
    class Granted(_message.Message):
        __slots__ = ("id", "grant")
        ID_FIELD_NUMBER: _ClassVar[int]
        GRANT_FIELD_NUMBER: _ClassVar[int]
        id: int
        grant: AuthReply
        def __init__(self, id: _Optional[int] = ..., grant: _Optional[_Union[AuthReply, _Mapping]] = ...) -> None: ...
    class NotDone(_message.Message):
        __slots__ = ("id", "code", "text")
        ID_FIELD_NUMBER: _ClassVar[int]
        CODE_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        id: int
        code: int
        text: str
        def __init__(self, id: _Optional[int] = ..., code: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    NOT_DONE_FIELD_NUMBER: _ClassVar[int]
    window: LinkReply.Window
    leaving: bool
    stored: _containers.RepeatedScalarFieldContainer[int]
    granted: _containers.RepeatedCompositeFieldContainer[LinkReply.Granted]
    not_done: _containers.RepeatedCompositeFieldContainer[LinkReply.NotDone]
    def __init__(self, window: _Optional[_Union[LinkReply.Window, _Mapping]] = ..., leaving: _Optional[bool] = ..., stored: _Optional[_Iterable[int]] = ..., granted: _Optional[_Iterable[_Union[LinkReply.Granted, _Mapping]]] = ..., not_done: _Optional[_Iterable[_Union[LinkReply.NotDone, _Mapping]]] = ...) -> None: ...
