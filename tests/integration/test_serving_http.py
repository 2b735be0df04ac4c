"""The server as a user runs it: a bundle on disk, a local Ray, requests over HTTP, one Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from serving_world import write_bundle

from serving.api.auth import digest_of
from serving.api.protos.sieve.v1 import recommend_pb2, recommend_pb2_grpc
from serving.commands.serve import check_binding, run_server
from serving.config import ServerSettings, SieveConfig
from serving.errors import BundleError, ConfigError

SIEVE = Path(sys.executable).with_name("sieve")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post(url: str, body: object) -> tuple[int, dict]:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/v1/recommend", data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ports(**server: object) -> dict[str, object]:
    return {"http_port": free_port(), "grpc_port": free_port(), **server}


def write_config(folder: Path, **server: object) -> Path:
    path = folder / "sieve.yaml"
    path.write_text(json.dumps({"root": "data", "server": ports(**server)}))
    return path


def config_of(folder: Path, **server: object) -> SieveConfig:
    return SieveConfig.model_validate({"root": folder / "data", "server": ports(**server)})


def assert_grpc_answers(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = recommend_pb2_grpc.RecommendServiceStub(channel)
        context = recommend_pb2.Context(likes=["i11"])
        answer = stub.Recommend(recommend_pb2.RecommendRequest(session_id="s1", k=3, context=context), timeout=10)
        assert [item.id for item in answer.items] == ["i10", "i09", "i08"]
        assert answer.served_by == recommend_pb2.SERVED_BY_RANKER


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted_and_then_frees_its_port(tmp_path):
    version = write_bundle(tmp_path / "data" / "bundles").name
    config = write_config(tmp_path)
    port = json.loads(config.read_text())["server"]["http_port"]
    server = subprocess.Popen([SIEVE, "-c", config, "serve"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert f"serving on http://127.0.0.1:{port}" in server.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as response:
            assert json.load(response) == {
                "status": "ready",
                "bundles": {"recommend": f"recommend/{version}"},
            }
        assert_grpc_answers(json.loads(config.read_text())["server"]["grpc_port"])
        status, answer = post(url, {"session_id": "s1", "k": 3, "context": {"likes": ["i11"]}})
        assert (status, [item["id"] for item in answer["items"]]) == (200, ["i10", "i09", "i08"])
        assert answer["served_by"] == "ranker"
        # The store file does not exist: someone with an id gets what is popular.
        status, answer = post(url, {"user_id": "u1", "k": 2})
        assert (answer["served_by"], answer["degraded"]) == ("popular", ["user_state"])
        status, document = post(url, {"k": 0})
        assert (status, document["field"]) == (422, "k")
        status, document = post(url, {"exclude": ["x" * 100] * 20_000})
        assert status == 413
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 0, errors
    assert "Traceback" not in errors
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_without_a_bundle_the_server_does_not_start(tmp_path):
    with pytest.raises(BundleError, match="nothing is published for recommend"), run_server(config_of(tmp_path)):
        pass


def test_the_command_says_what_is_missing_and_ends_with_2(tmp_path):
    done = subprocess.run([SIEVE, "-c", write_config(tmp_path), "serve"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no bundle recommend/latest")
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_damaged_bundle_stops_the_start_and_the_file_is_named(tmp_path):
    path = write_bundle(tmp_path / "data" / "bundles")
    ranker = path / "models" / "ranker.onnx"
    ranker.write_bytes(ranker.read_bytes()[:-1])
    done = subprocess.run(
        [SIEVE, "-c", write_config(tmp_path, high_throughput=False), "serve"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "models/ranker.onnx" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "films.example"])
def test_listening_beyond_this_machine_needs_tokens_or_a_word(host):
    settings = ServerSettings.model_validate(ports(host=host))
    with pytest.raises(ConfigError, match="allow-unauthenticated"):
        check_binding(settings, allow_unauthenticated=False)


def test_it_may_listen_everywhere_when_it_is_told_to():
    settings = ServerSettings.model_validate(ports(host="0.0.0.0"))
    check_binding(settings, allow_unauthenticated=True)


@pytest.mark.parametrize("name", ["http_port", "grpc_port"])
def test_a_port_that_is_taken_is_named_before_anything_starts(name):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{name}: 127.0.0.1:{port}"):
            check_binding(ServerSettings.model_validate(ports(**{name: port})), allow_unauthenticated=False)


def test_with_tokens_it_may_listen_everywhere_and_their_mistakes_are_told_before_anything_starts(tmp_path):
    entry = {"name": "shop", "sha256": digest_of("secret"), "roles": ["predict"]}
    path = tmp_path / "tokens.yaml"
    path.write_text(json.dumps({"tokens": [entry]}))
    settings = ServerSettings.model_validate(ports(host="0.0.0.0", tokens_file=path))
    check_binding(settings, allow_unauthenticated=False)
    path.write_text(json.dumps({"tokens": [{**entry, "roles": ["king"]}]}))
    with pytest.raises(ConfigError, match=r"roles"):
        check_binding(settings, allow_unauthenticated=False)


def test_a_mistake_in_the_pipeline_is_told_before_anything_starts(tmp_path):
    write_bundle(tmp_path / "data" / "bundles")
    config = tmp_path / "sieve.yaml"
    pipeline = {"after": [{"use": "no_such_rule"}], "ranker": {"use": "diversity"}}
    config.write_text(json.dumps({"root": "data", "server": ports(), "recommend": pipeline}))
    done = subprocess.run([SIEVE, "-c", config, "serve"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no stage is called no_such_rule" in done.stderr
    assert "diversity has no method score" in done.stderr
