from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Problem(_message.Message):
    __slots__ = ("type", "title", "status", "detail", "field", "errors", "error_id", "retry_after_s", "request_id")
    class Mistake(_message.Message):
        __slots__ = ("field", "problem")
        FIELD_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        field: str
        problem: str
        def __init__(self, field: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    ERROR_ID_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    type: str
    title: str
    status: int
    detail: str
    field: str
    errors: _containers.RepeatedCompositeFieldContainer[Problem.Mistake]
    error_id: str
    retry_after_s: int
    request_id: str
    def __init__(self, type: _Optional[str] = ..., title: _Optional[str] = ..., status: _Optional[int] = ..., detail: _Optional[str] = ..., field: _Optional[str] = ..., errors: _Optional[_Iterable[_Union[Problem.Mistake, _Mapping]]] = ..., error_id: _Optional[str] = ..., retry_after_s: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...
