import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from serving.api.protos.sieve.v1 import problem_pb2 as _problem_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ServedBy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVED_BY_UNSPECIFIED: _ClassVar[ServedBy]
    SERVED_BY_RANKER: _ClassVar[ServedBy]
    SERVED_BY_RETRIEVAL: _ClassVar[ServedBy]
    SERVED_BY_PRECOMPUTED: _ClassVar[ServedBy]
    SERVED_BY_POPULAR: _ClassVar[ServedBy]
    SERVED_BY_BUNDLED: _ClassVar[ServedBy]
SERVED_BY_UNSPECIFIED: ServedBy
SERVED_BY_RANKER: ServedBy
SERVED_BY_RETRIEVAL: ServedBy
SERVED_BY_PRECOMPUTED: ServedBy
SERVED_BY_POPULAR: ServedBy
SERVED_BY_BUNDLED: ServedBy

class RecommendRequest(_message.Message):
    __slots__ = ("user_id", "session_id", "k", "context", "filters", "exclude", "seed_items", "cursor", "explain", "request_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    SEED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    k: int
    context: Context
    filters: Filters
    exclude: _containers.RepeatedScalarFieldContainer[str]
    seed_items: _containers.RepeatedScalarFieldContainer[str]
    cursor: str
    explain: bool
    request_id: str
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., k: _Optional[int] = ..., context: _Optional[_Union[Context, _Mapping]] = ..., filters: _Optional[_Union[Filters, _Mapping]] = ..., exclude: _Optional[_Iterable[str]] = ..., seed_items: _Optional[_Iterable[str]] = ..., cursor: _Optional[str] = ..., explain: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class Context(_message.Message):
    __slots__ = ("device", "surface", "country", "time", "likes")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    LIKES_FIELD_NUMBER: _ClassVar[int]
    device: str
    surface: str
    country: str
    time: _timestamp_pb2.Timestamp
    likes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, device: _Optional[str] = ..., surface: _Optional[str] = ..., country: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., likes: _Optional[_Iterable[str]] = ...) -> None: ...

class Filters(_message.Message):
    __slots__ = ("genres", "year_from", "year_to")
    GENRES_FIELD_NUMBER: _ClassVar[int]
    YEAR_FROM_FIELD_NUMBER: _ClassVar[int]
    YEAR_TO_FIELD_NUMBER: _ClassVar[int]
    genres: _containers.RepeatedScalarFieldContainer[str]
    year_from: int
    year_to: int
    def __init__(self, genres: _Optional[_Iterable[str]] = ..., year_from: _Optional[int] = ..., year_to: _Optional[int] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("prediction_id", "request_id", "items", "served_by", "arm", "bundle", "degraded", "cursor", "trace")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    request_id: str
    items: _containers.RepeatedCompositeFieldContainer[AnswerItem]
    served_by: ServedBy
    arm: str
    bundle: str
    degraded: _containers.RepeatedScalarFieldContainer[str]
    cursor: str
    trace: _struct_pb2.Struct
    def __init__(self, prediction_id: _Optional[str] = ..., request_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[AnswerItem, _Mapping]]] = ..., served_by: _Optional[_Union[ServedBy, str]] = ..., arm: _Optional[str] = ..., bundle: _Optional[str] = ..., degraded: _Optional[_Iterable[str]] = ..., cursor: _Optional[str] = ..., trace: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class AnswerItem(_message.Message):
    __slots__ = ("id", "score", "sources", "reasons", "position")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: float
    sources: _containers.RepeatedScalarFieldContainer[str]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    position: int
    def __init__(self, id: _Optional[str] = ..., score: _Optional[float] = ..., sources: _Optional[_Iterable[str]] = ..., reasons: _Optional[_Iterable[str]] = ..., position: _Optional[int] = ...) -> None: ...

class RecommendBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RecommendRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RecommendRequest, _Mapping]]] = ...) -> None: ...

class RecommendBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RecommendResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RecommendResult, _Mapping]]] = ...) -> None: ...

class RecommendResult(_message.Message):
    __slots__ = ("answer", "problem")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    answer: RecommendResponse
    problem: _problem_pb2.Problem
    def __init__(self, answer: _Optional[_Union[RecommendResponse, _Mapping]] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...
