"""The OpenAPI document of what is served on bare ASGI, made from the same models that check and answer."""

from typing import Any

from pydantic import BaseModel, TypeAdapter

from serving.api.admission import MAX_DEADLINE_MS
from serving.api.exchange import ARM, ARM_NAME, DEADLINE, MIN_DEADLINE_MS, REQUEST_ID
from serving.api.problems import MEDIA_TYPE
from serving.api.recommend import BATCH_PATH, PATH
from serving.core.answer import Answer
from serving.core.query import Query

Document = dict[str, Any]

EXAMPLES: dict[str, Document] = {
    "a user": {"value": {"user_id": "u0000001", "context": {"device": "tv", "country": "DE"}}},
    "someone new": {"value": {"session_id": "s1", "context": {"country": "US", "likes": ["i0000012"]}}},
    "more like this": {"value": {"user_id": "u0000001", "seed_items": ["i0000012"], "k": 10}},
    "explained": {"value": {"user_id": "u0000001", "k": 3, "explain": True}},
}
BATCH_EXAMPLES: dict[str, Document] = {
    "two users": {"value": {"requests": [{"user_id": "u0000001", "k": 5}, {"user_id": "u0000002", "k": 5}]}},
}
ANSWER_EXAMPLE: Document = {
    "prediction_id": "0190a5b2c3d44e5f8a6b7c8d9e0f1a2b",
    "request_id": None,
    "items": [
        {
            "id": "i0000345",
            "score": 1.274,
            "sources": ["two_tower", "item_to_item"],
            "reasons": ["similar_to:i0000012", "your_taste"],
            "position": 0,
        }
    ],
    "served_by": "ranker",
    "arm": "stable",
    "bundle": "recommend/20260401T000000Z-3f9ac2b81d04",
    "degraded": [],
    "cursor": None,
    "trace": None,
}
PROBLEM: Document = {
    "title": "Problem",
    "description": "What went wrong, after RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:sieve:problem:invalid-request"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string", "description": "dotted path of the first mistake"},
        "errors": {
            "type": "array",
            "description": "every mistake, at most 20",
            "items": {
                "type": "object",
                "required": ["field", "problem"],
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "error_id": {"type": "string", "description": "finds the error in the server's log"},
        "request_id": {"type": ["string", "null"]},
    },
}
REFUSALS = {
    400: "The body is not JSON",
    401: "No token, or one that is not known",
    403: "The token lacks the role that this needs",
    413: "The body is too large",
    415: "The body is not announced as JSON",
    422: "A mistake in the request, naming the field",
    500: "A bug: the error's id finds it in the log",
    503: "More work than can be done in time, or nothing is loaded yet",
    504: "The deadline passed",
}
_REF = "#/components/schemas/{model}"
_SCHEME = "token"
SECURITY: list[Document] = [{}, {_SCHEME: []}]
"""A token where the server has any configured."""


def complete(document: Document, batch: type[BaseModel]) -> Document:
    """The framework's document with the recommend paths, their schemas and the token in it."""
    refs, schemas = TypeAdapter.json_schemas(
        [
            ("query", "validation", TypeAdapter(Query)),
            ("batch", "validation", TypeAdapter(batch)),
            ("answer", "serialization", TypeAdapter(Answer)),
        ],
        ref_template=_REF,
    )
    models = {key[0]: schema for key, schema in refs.items()}
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update({**schemas["$defs"], "Problem": PROBLEM})
    components["securitySchemes"] = {
        _SCHEME: {"type": "http", "scheme": "bearer", "description": "where the server has tokens configured"}
    }
    paths = document.setdefault("paths", {})
    one = _operation("recommend", "A ranked list", models["query"], EXAMPLES, _answer(models["answer"]))
    many = _operation("recommend_batch", "Many lists in one call", models["batch"], BATCH_EXAMPLES, _answers())
    document["paths"] = {PATH: {"post": one}, BATCH_PATH: {"post": many}, **paths}
    return document


def problem_responses(*statuses: int) -> dict[int | str, Document]:
    """The problem documents that an address answers with, by status."""
    return {status: _problem(REFUSALS[status]) for status in statuses}


def _operation(id_: str, summary: str, body: Document, examples: dict[str, Document], answer: Document) -> Document:
    return {
        "operationId": id_,
        "tags": ["recommend"],
        "summary": summary,
        "security": SECURITY,
        "parameters": [_deadline(), _request_id(), _arm()],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "examples": examples}}},
        "responses": {"200": answer, **{str(status): _refusal(status, what) for status, what in REFUSALS.items()}},
    }


def _answer(schema: Document) -> Document:
    content = {"application/json": {"schema": schema, "example": ANSWER_EXAMPLE}}
    return {"description": "The list, and how it came about", "headers": _echo(), "content": content}


def _answers() -> Document:
    either = {"anyOf": [{"$ref": _REF.format(model="Answer")}, {"$ref": _REF.format(model="Problem")}]}
    schema = {
        "type": "object",
        "required": ["request_id", "answers"],
        "properties": {"request_id": {"type": ["string", "null"]}, "answers": {"type": "array", "items": either}},
    }
    example = {"request_id": None, "answers": [ANSWER_EXAMPLE]}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": "One answer or problem per request, in order", "headers": _echo(), "content": content}


def _refusal(status: int, what: str) -> Document:
    headers = _echo()
    if status == 503:
        headers["Retry-After"] = {"description": "seconds", "schema": {"type": "integer"}}
    if status == 401:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
    return {**_problem(what), "headers": headers}


def _problem(what: str) -> Document:
    return {"description": what, "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}}


def _echo() -> Document:
    return {REQUEST_ID: {"description": "the request's id, where it has one", "schema": {"type": "string"}}}


def _header(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _deadline() -> Document:
    schema = {"type": "number", "minimum": MIN_DEADLINE_MS, "maximum": MAX_DEADLINE_MS}
    return _header(DEADLINE, "milliseconds that the answer may take; of a batch, all of it", schema)


def _request_id() -> Document:
    return _header(REQUEST_ID, "where the body has none", {"type": "string", "pattern": "^[!-~]{1,128}$"})


def _arm() -> Document:
    return _header(ARM, "forces an arm; needs the role `admin`", {"type": "string", "pattern": f"^{ARM_NAME}$"})
