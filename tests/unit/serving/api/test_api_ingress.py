import asyncio
import json
from typing import Any

import pytest
from http_world import PROBLEM, FakeDataplane

from serving.api.http import create_http
from serving.api.ingress import READ_BY_RAY, Ingress, middlewares


def asked(app: Any, headers: list[tuple[bytes, bytes]], path: str = "/v1/recommend") -> tuple[int, str, bytes]:
    """Status, content type and body of an answer through the middleware."""
    sent: list[dict[str, Any]] = []
    incoming = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return incoming.pop() if incoming else await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"", "headers": headers}
    asyncio.run(Ingress(app)(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], dict(sent[0]["headers"])[b"content-type"].decode(), body


def plain(status: int) -> Any:
    """An application that answers as Ray itself does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"6")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"sec", "more_body": True})
        await send({"type": "http.response.body", "body": b"ret"})

    return app


@pytest.mark.parametrize("name", sorted(READ_BY_RAY))
def test_a_header_that_ray_could_not_read_is_the_clients_mistake(name):
    status, content_type, body = asked(create_http(FakeDataplane()), [(name, b"\xff\xfe")])
    assert (status, content_type, json.loads(body)["field"]) == (422, PROBLEM, name.decode())


@pytest.mark.parametrize(
    ("status", "kind"), [(503, "overloaded"), (404, "no-route"), (408, "http-408"), (500, "internal")]
)
def test_what_ray_refuses_in_plain_text_becomes_a_problem_document(status, kind):
    told, content_type, body = asked(plain(status), [])
    assert (told, content_type) == (status, PROBLEM)
    assert json.loads(body)["type"] == f"urn:sieve:problem:{kind}"


def test_an_answer_and_a_problem_of_ours_pass_as_they_are():
    json_type = [(b"content-type", b"application/json")]
    app = create_http(FakeDataplane())
    assert asked(app, json_type)[0] == 200
    status, _, body = asked(app, [*json_type, (b"x-sieve-deadline-ms", b"soon")])
    assert (status, json.loads(body)["field"]) == (422, "X-Sieve-Deadline-Ms")


def test_rays_own_addresses_are_left_alone():
    assert asked(plain(503), [], path="/-/healthz") == (503, "text/plain; charset=utf-8", b"secret")


def test_ray_finds_the_middlewares_under_the_name_that_it_is_given():
    from ray._common.utils import import_attr

    assert [each.cls for each in import_attr("serving.api.ingress:middlewares")()] == [Ingress]
    assert middlewares()
