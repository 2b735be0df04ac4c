from dataclasses import dataclass

import pytest
from fastapi.testclient import TestClient
from serving_world import write_bundle

from serving.api.http import create_http
from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.core.deadline import NO_DEADLINE, Deadline
from serving.core.query import Query
from serving.errors import DependencyError

PROBLEM = "application/problem+json"
MAX_BODY_BYTES = 2_000


@dataclass
class Service:
    application: object = None
    bundle: str | None = None
    reason: str = "the bundle is being loaded"
    is_loading: bool = True


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    return Recommender(Bundle.load(write_bundle(tmp_path_factory.mktemp("bundles"))))


def client_of(application, **fields) -> TestClient:
    service = Service(application, "recommend/v1", **fields)
    return TestClient(create_http(service, MAX_BODY_BYTES), raise_server_exceptions=False)


@pytest.fixture
def client(recommender):
    return client_of(recommender)


class Raising:
    """An application in which something goes wrong."""

    def __init__(self, error):
        self.error = error

    def recommend(self, query: Query, *, deadline: Deadline = NO_DEADLINE):
        raise self.error


def test_an_answer_has_exactly_the_declared_shape(client):
    body = {"user_id": "u1", "k": 2, "request_id": "r-1", "context": {"country": "DE"}}
    response = client.post("/v1/recommend", json=body)
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == [
        "prediction_id", "request_id", "items", "served_by", "arm", "bundle", "degraded", "cursor", "trace",
    ]  # fmt: skip
    assert [list(item) for item in answer["items"]] == [["id", "score", "sources", "reasons", "position"]] * 2
    assert [item["id"] for item in answer["items"]] == ["i11", "i10"]
    assert answer["request_id"] == "r-1"
    assert answer["prediction_id"]
    assert (answer["served_by"], answer["arm"], answer["cursor"], answer["trace"]) == ("popular", "stable", None, None)


def test_every_answer_has_a_prediction_id_of_its_own(client):
    ids = {client.post("/v1/recommend", json={"request_id": "same"}).json()["prediction_id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"userid": "u1"}, "userid"),
        ({"k": "twenty"}, "k"),
        ({"k": 500}, "k"),
        ({"context": {"country": "Germany"}}, "context.country"),
        ({"filters": {"genres": ["Jazz"]}}, "filters.genres.0"),
        ({"exclude": ["ok", ""]}, "exclude.1"),
        ([], "body"),
        ({"user_id": "\ud800"}, "user_id"),
    ],
)
def test_a_mistake_is_a_problem_document_that_names_the_field(client, body, field):
    import json

    response = client.post("/v1/recommend", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.headers["content-type"] == PROBLEM
    document = response.json()
    assert document["field"] == field
    assert document["status"] == 422
    assert {"type", "title", "detail"} <= document.keys()


def test_every_mistake_is_told_at_once(client):
    document = client.post("/v1/recommend", json={"k": 0, "who": 1, "context": {"mood": 2}}).json()
    assert {each["field"] for each in document["errors"]} == {"k", "who", "context.mood"}


def test_a_header_that_is_wrong_is_named(client):
    response = client.post("/v1/recommend", json={}, headers={"X-Sieve-Deadline-Ms": "soon"})
    assert (response.status_code, response.json()["field"]) == (422, "X-Sieve-Deadline-Ms")


def test_what_is_not_json_is_refused(client):
    response = client.post("/v1/recommend", content=b"{", headers={"content-type": "application/json"})
    assert (response.status_code, response.headers["content-type"]) == (400, PROBLEM)


def test_a_body_that_is_too_large_is_refused_whether_announced_or_not(client):
    large = b'{"user_id": "' + b"u" * MAX_BODY_BYTES + b'"}'
    headers = {"content-type": "application/json"}
    announced = client.post("/v1/recommend", content=large, headers=headers)
    streamed = client.post("/v1/recommend", content=iter([large[:1000], large[1000:]]), headers=headers)
    for response in (announced, streamed):
        assert (response.status_code, response.headers["content-type"]) == (413, PROBLEM)
        assert str(MAX_BODY_BYTES) in response.json()["detail"]


@pytest.mark.parametrize(
    ("error", "status"), [(DependencyError("secret host"), 503), (KeyError("secret"), 500), (TypeError("secret"), 500)]
)
def test_what_went_wrong_inside_stays_inside_but_for_an_id(error, status):
    response = client_of(Raising(error)).post("/v1/recommend", json={})
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    assert "secret" not in response.text
    assert response.json()["error_id"]


def test_the_id_of_an_unknown_error_is_in_the_log(caplog):
    response = client_of(Raising(KeyError("gone"))).post("/v1/recommend", json={})
    assert response.json()["error_id"] in caplog.text


def test_the_deadline_reaches_the_application():
    class Recording:
        deadline = NO_DEADLINE

        def recommend(self, query, *, deadline):
            self.deadline = deadline
            raise DependencyError("enough")

    application = Recording()
    client_of(application).post("/v1/recommend", json={}, headers={"X-Sieve-Deadline-Ms": "250"})
    assert 0 < application.deadline.remaining_ms() <= 250


def test_ready_means_that_a_bundle_is_loaded(client):
    assert client.get("/readyz").json() == {"status": "ready", "bundle": "recommend/v1"}
    waiting = client_of(None)
    response = waiting.get("/readyz")
    assert response.status_code == 503
    assert response.json()["detail"] == "the bundle is being loaded"
    assert response.json()["loading"] is True
    assert waiting.get("/healthz").json() == {"status": "ok"}
    assert waiting.post("/v1/recommend", json={}).status_code == 503


def test_an_unknown_path_and_a_wrong_method_are_problem_documents(client):
    for response, status in ((client.get("/v2/nothing"), 404), (client.get("/v1/recommend"), 405)):
        assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)


def test_the_documentation_has_the_request_with_examples_and_the_answer(client):
    schema = client.get("/openapi.json").json()
    post = schema["paths"]["/v1/recommend"]["post"]
    assert "more like this" in post["requestBody"]["content"]["application/json"]["examples"]
    assert {"Query", "Answer", "AnswerItem", "Context"} <= schema["components"]["schemas"].keys()
    assert client.get("/docs").status_code == 200
