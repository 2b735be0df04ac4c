"""A stage in its own deployment gives the answers of the inline one, and follows a newer bundle."""

import json
import socket
import time
import urllib.request
from datetime import UTC, datetime

import pytest
from serving_world import IDS, write_bundle

from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.commands.serve import run_server
from serving.config import SieveConfig
from serving.core.query import Query

WAIT_S = 60.0
LIKES = ("i11", "i04")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url, **query):
    request = urllib.request.Request(
        f"{url}/v1/recommend", json.dumps(query).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def made_in(folder, year):
    return write_bundle(folder / "bundles", created_at=datetime(year, 1, 1, tzinfo=UTC))


@pytest.mark.ray
@pytest.mark.slow
def test_stages_of_their_own_answer_bit_for_bit_as_inline_ones_and_follow_a_newer_bundle(tmp_path):
    path = made_in(tmp_path, 2025)
    remote = {"placement": "deployment", "budget_ms": 10_000}
    recommend = {
        "deadline_ms": 20_000,
        "sources": [
            {"use": "two_tower", "share": 0.6, **remote},
            {"use": "item_to_item", "share": 0.3},
            {"use": "popular", "share": 0.1},
        ],
        "ranker": remote,
    }
    server = {"http_port": free_port(), "grpc_port": free_port()}
    config = SieveConfig.model_validate({"root": tmp_path, "server": server, "recommend": recommend})
    inline = Recommender(Bundle.load(path))
    with run_server(config) as url:
        for seen in range(len(IDS)):
            likes = [IDS[seen], *LIKES]
            there = ask(url, session_id="s", k=12, context={"likes": likes, "country": "DE"})
            query = Query(session_id="s", k=12, context={"likes": likes, "country": "DE"})
            here = inline.recommend(query)
            assert (there["served_by"], there["degraded"]) == ("ranker", [])
            assert [(item["id"], item["score"]) for item in there["items"]] == [(i.id, i.score) for i in here.items]
        newer = f"recommend/{made_in(tmp_path, 2026).name}"
        limit_s = time.monotonic() + WAIT_S
        while (answer := ask(url, session_id="s", context={"likes": list(LIKES)}))["bundle"] != newer:
            assert (answer["served_by"], answer["degraded"]) == ("ranker", [])
            assert time.monotonic() < limit_s, "the newer bundle was not taken"
        for _ in range(20):
            answer = ask(url, session_id="s", context={"likes": list(LIKES)})
            assert (answer["bundle"], answer["served_by"], answer["degraded"]) == (newer, "ranker", [])
