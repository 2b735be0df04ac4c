"""The surface over the recommender that is served, on a bundle of twelve films."""

import pytest
from http_world import PROBLEM, Client
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_world import write_bundle

from serving.api.http import create_http
from serving.apps.service import RecommendService
from serving.config import SieveConfig

ids = st.sampled_from(["i00", "i11", "i05", "nothing", "é" * 64, "x" * 128])
users = st.sampled_from(["u1", "nobody", "ä", "x" * 128])
contexts = st.fixed_dictionaries(
    {},
    optional={
        "device": st.sampled_from(["tv", "toaster", "", "\x00"]),
        "surface": st.text(max_size=64),
        "country": st.sampled_from(["DE", "US", "ZZ"]),
        "time": st.sampled_from(["1970-01-01T00:00:00Z", "2199-12-31T23:59:59+14:00", "2026-02-28T23:59:59.999-11:00"]),
        "likes": st.lists(ids, max_size=5),
    },
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "genres": st.lists(st.sampled_from(["Action", "Comedy"]), max_size=3),
        "year_from": st.integers(0, 2000),
        "year_to": st.integers(2000, 9999),
    },
)
queries = st.fixed_dictionaries(
    {},
    optional={
        "user_id": users,
        "session_id": users,
        "k": st.sampled_from([1, 3, 100]),
        "context": contexts,
        "filters": filters,
        "exclude": st.lists(ids, max_size=20),
        "seed_items": st.lists(ids, max_size=5),
        "explain": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> RecommendService:
    root = tmp_path_factory.mktemp("served")
    write_bundle(root / "bundles")
    return RecommendService(SieveConfig.model_validate({"root": root}))


@pytest.fixture(scope="module")
def client(service: RecommendService) -> Client:
    client = Client(create_http(service))
    assert client.get("/readyz").status_code == 503
    service.step()
    return client


def test_it_is_ready_when_the_bundle_is_loaded(client, service):
    assert client.get("/readyz").json()["bundles"].keys() == {"recommend"}


def test_a_list_is_answered_with_its_shape(client):
    answer = client.post("/v1/recommend", json={"k": 2, "context": {"country": "DE"}, "request_id": "r-1"}).json()
    assert [item["position"] for item in answer["items"]] == [0, 1]
    assert (answer["request_id"], answer["arm"]) == ("r-1", "stable")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"k": 101}, "k"),
        ({"filters": {"genres": ["Jazz"]}}, "filters.genres.0"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "\x00é"}, "cursor"),
    ],
)
def test_what_only_the_recommender_knows_to_be_wrong_names_its_field(client, body, field):
    response = client.post("/v1/recommend", json=body)
    assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM)
    assert response.json()["field"] == field


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(query=queries)
def test_whatever_the_schema_allows_is_answered(client, query):
    response = client.post("/v1/recommend", json=query, headers={"X-Sieve-Deadline-Ms": "600000"})
    assert response.status_code == 200, response.text
    shown = {item["id"] for item in response.json()["items"]}
    assert not shown & {*query.get("exclude", []), *query.get("seed_items", [])}
    assert len(shown) <= query.get("k", 20)
