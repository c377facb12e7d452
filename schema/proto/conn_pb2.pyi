from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PackageType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN: _ClassVar[PackageType]
    SIGN_IN: _ClassVar[PackageType]
    HEARTBEAT: _ClassVar[PackageType]
    MESSAGE: _ClassVar[PackageType]
    MEMBERS: _ClassVar[PackageType]
    ACK: _ClassVar[PackageType]
    EVENT: _ClassVar[PackageType]

class MsgLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORMAL: _ClassVar[MsgLevel]
    IMPORTANT: _ClassVar[MsgLevel]
UNKNOWN: PackageType
SIGN_IN: PackageType
HEARTBEAT: PackageType
MESSAGE: PackageType
MEMBERS: PackageType
ACK: PackageType
EVENT: PackageType
NORMAL: MsgLevel
IMPORTANT: MsgLevel

class Req(_message.Message):
    __slots__ = ("type", "data", "id")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    type: PackageType
    data: bytes
    id: int
    def __init__(self, type: _Optional[_Union[PackageType, str]] = ..., data: _Optional[bytes] = ..., id: _Optional[int] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("type", "data", "id")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    type: PackageType
    data: bytes
    id: int
    def __init__(self, type: _Optional[_Union[PackageType, str]] = ..., data: _Optional[bytes] = ..., id: _Optional[int] = ...) -> None: ...

class Err(_message.Message):
    __slots__ = ("code", "msg", "signed_in")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MSG_FIELD_NUMBER: _ClassVar[int]
    SIGNED_IN_FIELD_NUMBER: _ClassVar[int]
    code: int
    msg: str
    signed_in: SignedIn
    def __init__(self, code: _Optional[int] = ..., msg: _Optional[str] = ..., signed_in: _Optional[_Union[SignedIn, _Mapping]] = ...) -> None: ...

class SignIn(_message.Message):
    __slots__ = ("token", "roomID", "version", "resume", "events")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOMID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    token: str
    roomID: str
    version: int
    resume: Position
    events: bool
    def __init__(self, token: _Optional[str] = ..., roomID: _Optional[str] = ..., version: _Optional[int] = ..., resume: _Optional[_Union[Position, _Mapping]] = ..., events: _Optional[bool] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("epoch", "offset")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    offset: int
    def __init__(self, epoch: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class SignedIn(_message.Message):
    __slots__ = ("position", "recovered", "members", "heartbeat_timeout_s", "server_time_ms")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    position: Position
    recovered: bool
    members: int
    heartbeat_timeout_s: int
    server_time_ms: int
    def __init__(self, position: _Optional[_Union[Position, _Mapping]] = ..., recovered: _Optional[bool] = ..., members: _Optional[int] = ..., heartbeat_timeout_s: _Optional[int] = ..., server_time_ms: _Optional[int] = ...) -> None: ...

class BroadcastRoomReq(_message.Message):
    __slots__ = ("roomID", "msgLv", "data", "epoch", "first_offset", "items", "origin", "origin_seq", "sender", "sent_at_ms")
    ROOMID_FIELD_NUMBER: _ClassVar[int]
    MSGLV_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_OFFSET_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_SEQ_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_MS_FIELD_NUMBER: _ClassVar[int]
    roomID: str
    msgLv: MsgLevel
    data: bytes
    epoch: int
    first_offset: int
    items: _containers.RepeatedCompositeFieldContainer[Item]
    origin: int
    origin_seq: int
    sender: str
    sent_at_ms: int
    def __init__(self, roomID: _Optional[str] = ..., msgLv: _Optional[_Union[MsgLevel, str]] = ..., data: _Optional[bytes] = ..., epoch: _Optional[int] = ..., first_offset: _Optional[int] = ..., items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., origin: _Optional[int] = ..., origin_seq: _Optional[int] = ..., sender: _Optional[str] = ..., sent_at_ms: _Optional[int] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("sender", "sent_at_ms", "id")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    sender: str
    sent_at_ms: int
    id: bytes
    def __init__(self, sender: _Optional[str] = ..., sent_at_ms: _Optional[int] = ..., id: _Optional[bytes] = ...) -> None: ...

class BroadcastRoomReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeliverRequest(_message.Message):
    __slots__ = ("batches",)
    class Batch(_message.Message):
        __slots__ = ("number", "push")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        PUSH_FIELD_NUMBER: _ClassVar[int]
        number: int
        push: bytes
        def __init__(self, number: _Optional[int] = ..., push: _Optional[bytes] = ...) -> None: ...
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[DeliverRequest.Batch]
    def __init__(self, batches: _Optional[_Iterable[_Union[DeliverRequest.Batch, _Mapping]]] = ...) -> None: ...

class DeliverReply(_message.Message):
    __slots__ = ("open", "taken", "refused")
    class Refused(_message.Message):
        __slots__ = ("number", "text")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        number: int
        text: str
        def __init__(self, number: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    open: bool
    taken: _containers.RepeatedScalarFieldContainer[int]
    refused: _containers.RepeatedCompositeFieldContainer[DeliverReply.Refused]
    def __init__(self, open: _Optional[bool] = ..., taken: _Optional[_Iterable[int]] = ..., refused: _Optional[_Iterable[_Union[DeliverReply.Refused, _Mapping]]] = ...) -> None: ...
