import os
from pathlib import Path

import pytest
import yaml
from http_world import PROBLEM, bearer, client_of, tokens_of, write_tokens
from typer.testing import CliRunner

from serving.api.auth import Tokens, digest_of, load_tokens
from serving.api.dataplane import Role
from serving.commands.token import app as token_command
from serving.errors import ConfigError, Forbidden, Unauthenticated


class Clock:
    """Seconds that pass when told."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def entry(name: str = "web", **other: object) -> dict[str, object]:
    return {"name": name, "sha256": digest_of(name), "roles": ["predict"], **other}


def problems_of(folder: Path, document: object) -> list[str]:
    path = folder / "tokens.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError) as caught:
        load_tokens(path)
    return list(caught.value.problems)


def test_a_token_is_its_holder_with_the_holders_roles(tmp_path):
    tokens = tokens_of(tmp_path, web=["predict"], ops=["predict", "admin"])
    assert tokens.caller("Bearer ops").name == "ops"
    assert tokens.caller("bearer web").roles == {Role.PREDICT}


@pytest.mark.parametrize(
    "value",
    [None, "", "web", "Basic web", "Bearer", "Bearer ", "Bearer other", "Bearer web ", "Bearer  web", "Bearer \udcff",
     "Bearer " + "x" * 100_000],
)  # fmt: skip
def test_anything_but_a_known_token_is_refused(tmp_path, value):
    with pytest.raises(Unauthenticated) as caught:
        tokens_of(tmp_path, web=["predict"]).caller(value)
    assert caught.value.field == "authorization"
    assert "other" not in str(caught.value)


def test_without_a_file_everyone_is_anonymous_and_may_do_everything():
    caller = Tokens().caller(None)
    assert (caller.name, caller.roles) == ("anonymous", frozenset(Role))


def test_every_problem_of_the_file_is_told_at_once_and_none_of_its_digests(tmp_path):
    document = {"tokens": [entry(role="x"), entry("b", roles=["king"]), entry("c", sha256="secret"), {}], "other": 1}
    problems = problems_of(tmp_path, document)
    named = {problem.split(":")[0] for problem in problems}
    assert {"tokens.0.role", "tokens.1.roles.0", "tokens.2.sha256", "tokens.3.name", "other"} <= named
    assert "secret" not in "".join(problems)


@pytest.mark.parametrize("document", [None, [], {}, {"tokens": []}, {"tokens": "web"}])
def test_a_file_without_tokens_is_refused(tmp_path, document):
    assert problems_of(tmp_path, document)


def test_a_name_or_a_token_twice_is_refused(tmp_path):
    problems = problems_of(tmp_path, {"tokens": [entry(), entry(sha256=digest_of("x")), entry("b")]})
    assert problems == ["tokens.1.name: the same as tokens.0"]
    problems = problems_of(tmp_path, {"tokens": [entry(), entry("b", sha256=digest_of("web"))]})
    assert problems == ["tokens.1.sha256: the same as tokens.0"]


@pytest.mark.parametrize("content", [b"a: [", b"\xff"])
def test_a_file_that_is_no_yaml_is_refused_without_showing_it(tmp_path, content):
    path = tmp_path / "tokens.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not YAML"):
        load_tokens(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent"):
        Tokens(tmp_path / "absent.yaml")


def test_a_changed_file_is_in_force_a_second_later(tmp_path):
    clock = Clock()
    tokens = Tokens(write_tokens(tmp_path / "tokens.yaml", web=["predict"]), clock)
    write_tokens(tmp_path / "tokens.yaml", newcomer=["predict"])
    clock.now_s = 0.9
    assert tokens.caller("Bearer web").name == "web"
    clock.now_s = 1.1
    assert tokens.caller("Bearer newcomer").name == "newcomer"
    with pytest.raises(Unauthenticated):
        tokens.caller("Bearer web")


@pytest.mark.parametrize("content", ["tokens: [", None])
def test_a_file_that_broke_or_went_leaves_the_tokens_in_force(tmp_path, content, caplog):
    clock = Clock()
    path = write_tokens(tmp_path / "tokens.yaml", web=["predict"])
    tokens = Tokens(path, clock)
    if content is None:
        os.remove(path)
    else:
        path.write_text(content)
    clock.now_s = 2
    assert tokens.caller("Bearer web").name == "web"
    assert "stay as they are" in caplog.text
    write_tokens(path, other=["predict"])
    clock.now_s = 4
    assert tokens.caller("Bearer other").name == "other"


def test_a_role_that_is_missing_is_named(tmp_path):
    caller = tokens_of(tmp_path, web=["predict"]).caller("Bearer web")
    caller.require(Role.PREDICT, "authorization")
    with pytest.raises(Forbidden, match="explain: this needs a token with the role 'explain'"):
        caller.require(Role.EXPLAIN, "explain")


def test_a_request_without_a_token_is_told_how_to_bring_one(tmp_path):
    response = client_of(tokens=tokens_of(tmp_path, web=["predict"])).post("/v1/recommend", json={})
    assert (response.status_code, response.headers["content-type"]) == (401, PROBLEM)
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("token", "body", "headers", "status"),
    [
        ("web", {}, {}, 200),
        ("web", {"explain": True}, {}, 403),
        ("web", {}, {"X-Sieve-Arm": "canary"}, 403),
        ("analyst", {"explain": True}, {}, 200),
        ("ops", {}, {"X-Sieve-Arm": "canary"}, 200),
        ("feeder", {}, {}, 403),
    ],
)
def test_what_a_token_allows_is_what_it_may_do(tmp_path, token, body, headers, status):
    roles = {"web": ["predict"], "analyst": ["predict", "explain"], "ops": ["predict", "admin"], "feeder": ["events"]}
    client = client_of(tokens=tokens_of(tmp_path, **roles))
    response = client.post("/v1/recommend", json=body, headers={**bearer(token), **headers})
    assert response.status_code == status
    if headers and status == 200:
        assert response.json()["arm"] == "canary"


def test_explaining_is_refused_for_its_own_place_in_a_batch(tmp_path):
    client = client_of(tokens=tokens_of(tmp_path, web=["predict"]))
    requests = [{"explain": True}, {}]
    response = client.post("/v1/recommend/batch", json={"requests": requests}, headers=bearer("web"))
    assert [answer.get("status") for answer in response.json()["answers"]] == [403, None]


def test_health_and_the_documentation_are_open_and_metrics_need_any_token(tmp_path):
    async def metrics() -> tuple[str, bytes]:
        return "text/plain", b""

    client = client_of(tokens=tokens_of(tmp_path, feeder=["events"]), metrics=metrics)
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=bearer("feeder")).status_code == 200


def test_a_token_that_the_command_makes_is_known_to_the_server_that_has_its_entry(tmp_path):
    result = CliRunner().invoke(token_command, ["new", "1.5", "--role", "predict", "--role", "explain"])
    token, line = result.output.splitlines()[1].strip(), result.output.splitlines()[3]
    path = tmp_path / "tokens.yaml"
    path.write_text(f"tokens:\n{line}\n")
    caller = Tokens(path).caller(f"Bearer {token}")
    assert (caller.name, caller.roles) == ("1.5", {Role.PREDICT, Role.EXPLAIN})


def test_the_command_refuses_a_name_that_the_file_would_not_take():
    result = CliRunner().invoke(token_command, ["new", "a b"])
    assert isinstance(result.exception, ConfigError)
