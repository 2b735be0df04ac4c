import asyncio
import json

import httpx
import pytest
from http_world import JSON, PROBLEM, Client, FakeDataplane, Notes, client_of, client_on_this_loop, raising

from serving.api.dataplane import Readiness
from serving.api.http import create_http
from serving.errors import DependencyError, OverloadError, SetupError

BATCH = "/v1/recommend/batch"


def test_an_answer_has_exactly_the_declared_shape():
    body = {"user_id": "u1", "k": 2, "request_id": "r-1", "context": {"country": "DE"}}
    response = client_of().post("/v1/recommend", json=body)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    answer = response.json()
    assert list(answer) == [
        "prediction_id", "request_id", "items", "served_by", "arm", "bundle", "degraded", "cursor", "trace",
    ]  # fmt: skip
    assert [list(item) for item in answer["items"]] == [["id", "score", "sources", "reasons", "position"]] * 2
    assert (answer["request_id"], answer["served_by"], answer["arm"]) == ("r-1", "ranker", "stable")


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"])
def test_json_is_taken_under_each_of_its_names(content_type):
    response = client_of().post("/v1/recommend", content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 200


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {"content-type": "application/jsonp"}])
def test_what_is_not_announced_as_json_is_refused(headers):
    response = client_of().post("/v1/recommend", content=b"{}", headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (415, PROBLEM)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"userid": "u1"}, "userid"),
        ({"k": "20"}, "k"),
        ({"k": True}, "k"),
        ({"k": 0}, "k"),
        ({"k": -1}, "k"),
        ({"k": 10**9}, "k"),
        ({"k": 500}, "k"),
        ({"explain": "yes"}, "explain"),
        ({"context": {"country": "Germany"}}, "context.country"),
        ({"context": {"time": "2026-01-01T00:00:00"}}, "context.time"),
        ({"context": {"time": "0001-01-01T00:00:00+14:00"}}, "context.time"),
        ({"context": {"time": "9999-12-31T23:59:59-12:00"}}, "context.time"),
        ({"context": {"time": 1_700_000_000}}, "context.time"),
        ({"filters": {"year_from": 2001, "year_to": 2000}}, "filters"),
        ({"exclude": ["ok", ""]}, "exclude.1"),
        ({"exclude": ["x"] * 100_000}, "exclude"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_a_mistake_is_a_problem_document_that_names_the_field(body, field):
    response = client_of().post("/v1/recommend", content=json.dumps(body), headers=JSON)
    assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM)
    document = response.json()
    assert (document["field"], document["status"]) == (field, 422)
    assert {"type", "title", "detail"} <= document.keys()


def test_every_mistake_is_told_at_once():
    document = client_of().post("/v1/recommend", json={"k": 0, "who": 1, "context": {"mood": 2}}).json()
    assert {each["field"] for each in document["errors"]} == {"k", "who", "context.mood"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("X-Sieve-Deadline-Ms", value) for value in ("soon", "", "0", "-5", "nan", "inf", "1e3", "700000", "1_0")),
        *(("X-Request-Id", value) for value in ("", "x" * 129, b"\xff\xfe", "a\tb")),
        *(("X-Sieve-Arm", value) for value in ("", "a b", "x" * 65, b"\xff")),
    ],
)
def test_a_header_that_is_nonsense_is_named(name, value):
    response = client_of().post("/v1/recommend", json={}, headers={name: value})
    assert (response.status_code, response.json()["field"]) == (422, name)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"user_id":"\\ud800"}', b'{"k":' + b"9" * 5000])
def test_what_is_not_json_is_refused(body):
    response = client_of().post("/v1/recommend", content=body, headers=JSON)
    assert (response.status_code, response.headers["content-type"]) == (400, PROBLEM)


def test_a_body_that_is_too_large_is_refused_whether_announced_or_not():
    client = client_of(max_body_bytes=2_000)
    large = b'{"user_id": "' + b"u" * 2_000 + b'"}'

    async def chunks():
        for start in range(0, len(large), 1_000):
            yield large[start : start + 1_000]

    announced = client.post("/v1/recommend", content=large, headers=JSON)
    streamed = client.post("/v1/recommend", content=chunks(), headers=JSON)
    for response in (announced, streamed):
        assert (response.status_code, response.headers["content-type"]) == (413, PROBLEM)
        assert "2000" in response.json()["detail"]


def test_a_body_in_many_pieces_is_one_body():
    async def pieces():
        for byte in b'{"user_id": "u1", "k": 3}':
            yield bytes([byte])

    response = client_of().post("/v1/recommend", content=pieces(), headers=JSON)
    assert len(response.json()["items"]) == 3


@pytest.mark.parametrize("path", ["/v1/recommend", BATCH])
def test_a_body_full_of_mistakes_is_answered_with_a_short_document(path):
    body = "{" + ",".join(f'"{i:x}":0' for i in range(50_000)) + "}"
    response = client_of().post(path, content=body, headers=JSON)
    assert (response.status_code, response.json()["field"]) == (422, "body")
    assert "mistakes" in response.json()["detail"]


@pytest.mark.parametrize(
    ("error", "status"), [(DependencyError("secret host"), 503), (KeyError("secret"), 500), (TypeError("secret"), 500)]
)
def test_what_went_wrong_inside_stays_inside_but_for_an_id(error, status, caplog):
    response = client_of(raising(error)).post("/v1/recommend", json={})
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    assert "secret" not in response.text
    assert response.json()["error_id"] in caplog.text


def test_a_schema_that_breaks_inside_is_a_bug_and_not_the_callers_mistake():
    from serving.core.query import Query

    def work(query):
        Query.model_validate({"k": 0})

    assert client_of(FakeDataplane(work)).post("/v1/recommend", json={}).status_code == 500


@pytest.mark.parametrize("error", [OverloadError("full"), SetupError("not loaded"), DependencyError("down")])
def test_what_may_pass_says_when_to_try_again(error):
    response = client_of(raising(error)).post("/v1/recommend", json={})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1


def test_the_deadline_reaches_the_dataplane_or_the_default_does():
    dataplane = FakeDataplane()
    client = client_of(dataplane)
    client.post("/v1/recommend", json={}, headers={"X-Sieve-Deadline-Ms": "5000.5"})
    client.post("/v1/recommend", json={})
    assert [deadline.budget_ms for _, deadline, _ in dataplane.asked] == [5000.5, 200.0]
    assert 0 < dataplane.asked[0][1].remaining_ms() <= 5000.5


def test_a_request_id_is_taken_from_the_body_or_the_header_and_told_in_both():
    client = client_of()
    both = client.post("/v1/recommend", json={"request_id": "bödy"}, headers={"X-Request-Id": "header"})
    header = client.post("/v1/recommend", json={}, headers={"X-Request-Id": "header"})
    none = client.post("/v1/recommend", json={})
    assert (both.json()["request_id"], both.headers["x-request-id"]) == ("bödy", "b%C3%B6dy")
    assert (header.json()["request_id"], header.headers["x-request-id"]) == ("header", "header")
    assert none.json()["request_id"] is None
    assert "x-request-id" not in none.headers


def test_a_problem_carries_the_request_id():
    client = client_of()
    headers = {"X-Request-Id": "r-1"}
    refused = client.post("/v1/recommend", json={"k": 0}, headers=headers)
    inside = client.post("/v1/recommend", json={"k": 500, "request_id": "r-1"})
    nowhere = client.get("/nowhere", headers=headers)
    assert [each.json()["request_id"] for each in (refused, inside, nowhere)] == ["r-1"] * 3


def test_the_request_id_is_not_told_twice_where_the_server_around_does_it():
    response = client_of(echoes_request_id=False).post("/v1/recommend", json={"request_id": "r-1"})
    assert "x-request-id" not in response.headers
    assert response.json()["request_id"] == "r-1"


def test_the_journal_is_told_of_every_answer_and_every_refusal():
    notes = Notes()
    client = client_of(journal=notes)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.post("/v1/recommend", json={"request_id": "r-1"}, headers={"traceparent": trace})
    client.post("/v1/recommend", json={"k": 0}, headers={"X-Request-Id": "r-2"})
    client.post(BATCH, json={"requests": [{}, {"k": 500}]}, headers={"X-Request-Id": "r-3"})
    client.post(BATCH, json={})
    assert notes.seen == [
        ("recommend", "http", "200", "p1", "r-1", trace),
        ("recommend", "http", "422", None, "r-2", None),
        ("recommend", "http", "200", "p2", "r-3", None),
        ("recommend", "http", "422", None, "r-3", None),
        ("recommend", "http", "422", None, None, None),
    ]


def test_ready_means_that_a_bundle_is_loaded():
    assert client_of().get("/readyz").json() == {"status": "ready", "bundles": {"recommend": "recommend/v1"}}
    waiting = client_of(FakeDataplane(ready=Readiness(False, True, "the bundle is being loaded")))
    response = waiting.get("/readyz")
    assert (response.status_code, response.headers["content-type"]) == (503, PROBLEM)
    assert (response.json()["detail"], response.json()["loading"]) == ("the bundle is being loaded", True)
    assert waiting.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v2/nothing", 404), ("POST", "/v1/recommend/", 404), ("GET", "/v1/recommend", 405), ("PUT", BATCH, 405)],
)
def test_an_unknown_path_and_a_wrong_method_are_problem_documents(method, path, status):
    response = client_of().request(method, path)
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    assert ("allow" in response.headers) == (status == 405)


def test_metrics_are_what_the_server_was_given():
    async def metrics() -> tuple[str, bytes]:
        return "text/plain; version=0.0.4", b"sieve_requests_total 1\n"

    response = client_of(metrics=metrics).get("/metrics")
    assert (response.text, response.headers["content-type"]) == (
        "sieve_requests_total 1\n",
        "text/plain; version=0.0.4",
    )


def test_a_bug_outside_the_answering_path_is_a_problem_document_too(caplog):
    async def metrics() -> tuple[str, bytes]:
        raise KeyError("secret")

    response = client_of(metrics=metrics).get("/metrics")
    assert (response.status_code, response.headers["content-type"]) == (500, PROBLEM)
    assert "secret" not in response.text
    assert response.json()["error_id"] in caplog.text


def test_a_server_that_shuts_down_is_not_ready_and_finishes_what_it_began():
    class Waiting(FakeDataplane):
        async def recommend(self, query, deadline, caller):
            begun.set()
            await may_end.wait()
            return await super().recommend(query, deadline, caller)

    async def scenario() -> tuple[httpx.Response, httpx.Response]:
        app = create_http(Waiting())
        incoming: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        life = asyncio.create_task(app({"type": "lifespan", "asgi": {}}, incoming.get, told.put))
        await incoming.put({"type": "lifespan.startup"})
        assert (await told.get())["type"] == "lifespan.startup.complete"
        async with client_on_this_loop(app) as client:
            running = asyncio.create_task(client.post("/v1/recommend", json={}))
            await begun.wait()
            await incoming.put({"type": "lifespan.shutdown"})
            assert (await told.get())["type"] == "lifespan.shutdown.complete"
            readiness = await client.get("/readyz")
            may_end.set()
            await life
            return readiness, await running

    begun, may_end = asyncio.Event(), asyncio.Event()
    readiness, answer = asyncio.run(scenario())
    assert (readiness.status_code, readiness.json()["loading"]) == (503, False)
    assert answer.status_code == 200


def test_a_batch_is_answered_in_order_with_a_problem_in_the_place_of_what_failed():
    requests = [{"user_id": "u1", "k": 1}, {"k": 500, "request_id": "r-2"}, {"user_id": "u3", "k": 2}]
    response = client_of().post(BATCH, json={"requests": requests}, headers={"X-Request-Id": "whole"})
    first, second, third = response.json()["answers"]
    assert (len(first["items"]), first["request_id"]) == (1, "whole")
    assert (second["status"], second["field"], second["request_id"]) == (422, "k", "r-2")
    assert len(third["items"]) == 2
    assert response.headers["x-request-id"] == response.json()["request_id"] == "whole"


def test_a_bug_in_one_answer_of_a_batch_leaves_the_others():
    def work(query):
        if query.user_id == "bad":
            raise KeyError("secret")

    response = client_of(FakeDataplane(work)).post(BATCH, json={"requests": [{"user_id": "bad"}, {"user_id": "good"}]})
    bad, good = response.json()["answers"]
    assert (bad["status"], good["served_by"]) == (500, "ranker")
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"requests": []}, "requests"),
        ({"requests": [{}] * 4}, "requests"),
        ({"requests": [{}, {"k": 0}]}, "requests.1.k"),
        ({"requests": [{"exclude": [""]}]}, "requests.0.exclude.0"),
        ({"requests": [{}], "k": 3}, "k"),
        ({}, "requests"),
    ],
)
def test_a_batch_with_a_mistake_is_refused_whole(body, field):
    dataplane = FakeDataplane()
    response = client_of(dataplane, max_batch=3).post(BATCH, json=body)
    assert (response.status_code, [each["field"] for each in response.json()["errors"]]) == (422, [field])
    assert dataplane.asked == []


def test_a_batch_asks_for_a_bounded_number_of_items_in_all():
    response = client_of().post(BATCH, json={"requests": [{"k": 1000}] * 11})
    assert (response.status_code, response.json()["field"]) == (422, "requests")


def test_each_answer_of_a_batch_has_its_part_of_the_time():
    dataplane = FakeDataplane()
    client = client_of(dataplane)
    client.post(BATCH, json={"requests": [{}] * 4}, headers={"X-Sieve-Deadline-Ms": "400000"})
    budgets = [deadline.budget_ms for _, deadline, _ in dataplane.asked]
    assert budgets[0] == pytest.approx(100_000, rel=0.05)
    assert budgets[-1] == pytest.approx(400_000, rel=0.05)


def test_a_batch_does_not_keep_a_single_request_waiting():
    dataplane = FakeDataplane()

    async def scenario() -> None:
        async with client_on_this_loop(Client(create_http(dataplane)).app) as client:
            many = {"requests": [{"user_id": "many"}] * 50}
            await asyncio.gather(client.post(BATCH, json=many), client.post("/v1/recommend", json={"user_id": "one"}))

    asyncio.run(scenario())
    assert [query.user_id for query, _, _ in dataplane.asked].index("one") < 5
