"""docs/api.md says what the server does."""

import json
import re
from pathlib import Path

import yaml
from http_world import client_of

from serving.api.auth import load_tokens
from serving.api.problems import KINDS, NO_ROUTE, NOT_JSON, TOO_LARGE, WRONG_MEDIA, WRONG_METHOD

TEXT = (Path(__file__).parents[4] / "docs" / "api.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_requests_of_the_documentation_are_answered():
    single = re.search(r"-d '(.*?)'", blocks("sh")[0], re.DOTALL)[1]
    assert client_of().post("/v1/recommend", json=json.loads(single)).status_code == 200
    batch = json.loads(blocks("json")[0])
    assert client_of().post("/v1/recommend/batch", json=batch).status_code == 200


def test_the_problem_of_the_documentation_is_what_the_server_says():
    response = client_of().post("/v1/recommend", json={"context": {"country": "Germany"}})
    assert response.json() == json.loads(blocks("json")[1])


def test_the_tokens_of_the_documentation_can_be_read(tmp_path):
    path = tmp_path / "tokens.yaml"
    path.write_text(blocks("yaml")[0])
    assert [caller.name for _, caller in load_tokens(path)] == [
        e["name"] for e in yaml.safe_load(path.read_text())["tokens"]
    ]


def test_every_kind_of_problem_is_in_the_table_with_its_status_and_code():
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    for kind in {*KINDS.values(), NO_ROUTE, NOT_JSON, TOO_LARGE, WRONG_MEDIA, WRONG_METHOD}:
        if kind.type != "bad-request":  # the base of the client's errors, never raised itself
            assert any(f"`{kind.type}`" in r and str(kind.status) in r and kind.grpc in r for r in rows), kind
