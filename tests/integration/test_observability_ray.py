"""Three replicas on a real Ray: what they count adds up on the node's agent, and their logs come out whole."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from ray import serve

from serving.observability.metrics import REQUEST_BUCKETS_S

REPLICAS, REQUESTS = 3, 600
FAST_S, SLOW_S = 0.0012, 0.015
LIMIT_S = 60.0


def build_tally() -> Any:
    """A deployment made here, so that Ray ships it by value: replicas cannot import a test."""

    # As Ray Serve's throughput mode has it: what replicas print goes to Serve's own logger.
    @serve.deployment(
        num_replicas=REPLICAS,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": {"RAY_SERVE_LOG_TO_STDERR": "0"}}},
        logging_config={"log_level": "WARNING"},
    )
    class Tally:
        def __init__(self) -> None:
            from serving.observability.logs import configure_logs
            from serving.observability.metrics import QUALITY
            from serving.observability.ray_export import open_publisher
            from serving.observability.recorder import Recorder
            from serving.observability.settings import LogSettings, MetricsSettings

            configure_logs(LogSettings.model_validate({}))
            self.recorder = Recorder()
            self.recorder.set(QUALITY, "recommend", value=0.5)
            self.publisher = open_publisher(self.recorder, MetricsSettings.model_validate({"flush_s": 0.1}))
            self.publisher.start()

        def answer(self, number: int, seconds: float) -> str:
            import logging

            from serving.core.trace import Kind, StageTrace, Trace
            from serving.observability.logs import RequestScope
            from serving.observability.recorder import Outcome

            trace = Trace(stages=[StageTrace("seen", Kind.RULE, 0.02, 300, 290, {"seen": 10})])
            self.recorder.observe("recommend", "http", Outcome("200", seconds, "ranker", "stable", 20), trace)
            if number == 0:
                with RequestScope("r0", "p0"):
                    logging.getLogger("serving.tally").warning("the first one")
            return serve.get_replica_context().replica_id.unique_id

        def die(self) -> None:
            import os

            os._exit(1)

        async def page(self) -> tuple[str, bytes]:
            return await self.publisher.page()

    return Tally.bind()


@pytest.fixture(scope="module")
def tally() -> Iterator[Any]:
    """A handle on the replicas, after all requests were answered; and which replicas answered."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    try:
        handle = serve.run(build_tally(), name="tally", route_prefix=None)
        asked = [handle.answer.remote(i, SLOW_S if i % 10 == 0 else FAST_S) for i in range(REQUESTS)]
        yield handle, {response.result(timeout_s=LIMIT_S) for response in asked}
    finally:
        serve.shutdown()
        ray.shutdown()


def page_with_all(handle: Any) -> list[Sample]:
    """The samples of `GET /metrics` once every replica has flushed."""
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        content_type, body = handle.page.remote().result(timeout_s=LIMIT_S)
        assert content_type.startswith("text/plain")
        samples = samples_of(body.decode())
        if value_of(samples, "sieve_requests_total", status="200") >= REQUESTS:
            return samples
        time.sleep(0.1)
    raise AssertionError(f"not all requests arrived: {value_of(samples, 'sieve_requests_total', status='200')}")


def samples_of(page: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


def value_of(samples: list[Sample], name: str, **labels: str) -> float:
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def quantile(q: float, buckets: dict[float, float]) -> float:
    """As PromQL's histogram_quantile has it: linear within the bucket that holds the rank."""
    rank, lower, below = q * buckets[float("inf")], 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= rank:
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    raise AssertionError("no bucket holds the rank")


@pytest.mark.ray
@pytest.mark.slow
def test_the_counters_of_three_replicas_add_up_to_the_requests(tally):
    handle, answered_by = tally
    assert len(answered_by) == REPLICAS
    samples = page_with_all(handle)
    assert value_of(samples, "sieve_requests_total", app="recommend", served_by="ranker") == REQUESTS
    assert value_of(samples, "sieve_removed_candidates_total", rule="seen", reason="seen") == REQUESTS * 10
    assert value_of(samples, "sieve_stage_latency_seconds_count", stage="seen", kind="rule") == REQUESTS


@pytest.mark.ray
@pytest.mark.slow
def test_a_latency_quantile_can_be_read_from_the_buckets_and_the_sum_is_exact(tally):
    samples = page_with_all(tally[0])
    buckets = {float(s.labels["le"]): s.value for s in samples if s.name == "sieve_request_latency_seconds_bucket"}
    assert sorted(buckets) == [*REQUEST_BUCKETS_S, float("inf")]
    assert 0.001 < quantile(0.5, buckets) <= 0.0015
    assert 0.01 < quantile(0.95, buckets) <= 0.02
    total = value_of(samples, "sieve_request_latency_seconds_sum")
    assert total == pytest.approx(REQUESTS * (0.9 * FAST_S + 0.1 * SLOW_S))


@pytest.mark.ray
@pytest.mark.slow
def test_a_gauge_tells_the_replicas_apart(tally):
    handle, answered_by = tally
    samples = page_with_all(handle)
    found = {s.labels["replica"]: s.value for s in samples if s.name == "sieve_quality_factor"}
    assert found == dict.fromkeys(answered_by, 0.5)


@pytest.mark.ray
@pytest.mark.slow
def test_the_agent_itself_shows_the_same_behind_rays_prefix(tally):
    page_with_all(tally[0])
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as response:
        samples = samples_of(response.read().decode())
    assert value_of(samples, "ray_sieve_requests_total") == REQUESTS
    assert value_of(samples, "ray_sieve_request_latency_seconds_bucket", le="+Inf") == REQUESTS


@pytest.mark.ray
@pytest.mark.slow
def test_a_replicas_log_is_json_on_its_standard_error(tally):
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    lines = [
        line for path in logs.glob("worker-*.err") for line in path.read_text().splitlines() if '"message"' in line
    ]
    (event,) = [json.loads(line) for line in lines if "the first one" in line]
    del event["time"]
    assert event == {
        "level": "WARNING", "logger": "serving.tally", "message": "the first one",
        "request_id": "r0", "prediction_id": "p0",
    }  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
def test_counts_outlive_their_replica_and_its_gauges_do_not(tally):
    handle, answered_by = tally
    page_with_all(handle)
    with pytest.raises(ray.exceptions.RayError):
        handle.die.remote().result(timeout_s=LIMIT_S)
    limit = time.monotonic() + LIMIT_S
    gauges: set[str] = set(answered_by)
    while answered_by <= gauges and time.monotonic() < limit:
        samples = page_with_all(handle)
        gauges = {s.labels["replica"] for s in samples if s.name == "sieve_quality_factor"}
        time.sleep(0.5)
    assert len(answered_by - gauges) == 1
    assert value_of(samples, "sieve_requests_total") == REQUESTS
