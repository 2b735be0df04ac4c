"""Accumulation and the text that Prometheus reads, checked with Prometheus' own parser."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.observability import metrics
from serving.observability.exposition import render, restore
from serving.observability.metrics import ALL, Kind, Metric
from serving.observability.series import Registry

LATENCY = Metric("sieve_test_seconds", Kind.HISTOGRAM, "a test", ("app",), (0.001, 0.01))


def families(page: str) -> dict:
    return {family.name: family for family in text_string_to_metric_families(page)}


def values(registry: Registry) -> dict:
    return {(series.name, dict(series.labels).get("le")): value for series, value in registry.samples()}


def test_a_histogram_is_exported_with_cumulative_buckets_their_bounds_inside():
    registry = Registry()
    for value in (0.0005, 0.001, 0.005, 0.01, 7.0):
        registry.distribution(LATENCY, "recommend").observe(value)
    assert values(registry) == {
        ("sieve_test_seconds_bucket", "0.001"): 2,
        ("sieve_test_seconds_bucket", "0.01"): 4,
        ("sieve_test_seconds_bucket", "+Inf"): 5,
        ("sieve_test_seconds_sum", None): pytest.approx(7.0165),
        ("sieve_test_seconds_count", None): 5,
    }


def test_the_same_labels_are_the_same_series():
    registry = Registry()
    registry.number(metrics.SHED, "recommend", "queue").add(2)
    registry.number(metrics.SHED, "recommend", "queue").add()
    assert [value for _, value in registry.samples()] == [3]


def test_a_label_too_few_is_a_mistake_that_is_told():
    with pytest.raises(ValueError, match="sieve_shed_requests_total has the labels"):
        Registry().number(metrics.SHED, "recommend")


def test_more_label_sets_than_allowed_are_counted_together():
    registry = Registry(max_series=3)
    for i in range(10):
        registry.number(metrics.CANCELLED, f"app{i}").add()
    found = {dict(series.labels)["app"]: value for series, value in registry.samples()}
    assert found == {"app0": 1, "app1": 1, "app2": 1, "other": 7}


def test_a_watched_gauge_is_read_when_it_is_exported_and_ends_when_forgotten():
    registry, ages = Registry(), iter([1.0, 2.0, None, 4.0])
    registry.watch(metrics.BUNDLE_AGE, "recommend", "stable", read=lambda: next(ages))
    assert [value for _, value in registry.samples()] == [1.0]
    assert [value for _, value in registry.samples()] == [2.0]
    assert list(registry.samples()) == []
    registry.forget(metrics.BUNDLE_AGE, "recommend", "stable")
    assert list(registry.samples()) == []


def test_a_gauge_that_cannot_be_read_is_left_out_and_told_once(caplog):
    registry = Registry()
    registry.watch(metrics.BUNDLE_AGE, "recommend", "stable", read=lambda: 1 / 0)
    registry.number(metrics.CANCELLED, "recommend").add()
    for _ in range(3):
        assert [value for _, value in registry.samples()] == [1]
    assert [record.message for record in caplog.records] == ["sieve_bundle_age_seconds cannot be read"]


def test_the_rendered_page_is_what_prometheus_understands():
    registry = Registry()
    registry.distribution(metrics.REQUEST_LATENCY, "recommend", "http", "stable").observe(0.0012)
    registry.number(metrics.REMOVED, "recommend", "filter", 'a "quoted"\nreason \\').add(4)
    found = families(render(registry.samples()))
    assert found["sieve_request_latency_seconds"].type == "histogram"
    assert found["sieve_removed_candidates"].type == "counter"
    (removed,) = found["sieve_removed_candidates"].samples
    assert removed.labels["reason"] == 'a "quoted"\nreason \\'
    assert removed.value == 4


AGENT_PAGE = """\
# HELP ray_sieve_store_read_latency_seconds_bucket One read
# TYPE ray_sieve_store_read_latency_seconds_bucket gauge
ray_sieve_store_read_latency_seconds_bucket{le="+Inf",otel_scope_name="x",otel_scope_version="",store="redis"} 3.0
ray_sieve_store_read_latency_seconds_bucket{le="0.001",otel_scope_name="x",otel_scope_version="",store="redis"} 1.0
ray_sieve_store_read_latency_seconds_bucket{le="0.0002",otel_scope_name="x",otel_scope_version="",store="redis"} 0.0
# HELP ray_sieve_store_read_latency_seconds_sum One read
# TYPE ray_sieve_store_read_latency_seconds_sum gauge
ray_sieve_store_read_latency_seconds_sum{otel_scope_name="x",store="redis"} 0.5
# TYPE ray_sieve_store_read_latency_seconds_count gauge
ray_sieve_store_read_latency_seconds_count{otel_scope_name="x",store="redis"} 3.0
# HELP ray_node_cpu_count CPUs
# TYPE ray_node_cpu_count gauge
ray_node_cpu_count{NodeAddress="1.2.3.4"} 2.0
# HELP ray_sieve_store_errors_total Errors
# TYPE ray_sieve_store_errors_total counter
ray_sieve_store_errors_total{error="a \\"}\\" b",otel_scope_name="x",store="redis"} 2.0
# HELP ray_sieve_of_tomorrow_total Unknown here
# TYPE ray_sieve_of_tomorrow_total counter
ray_sieve_of_tomorrow_total{app="recommend"} 1.0
"""


def test_the_agents_page_gives_sieves_metrics_back_under_their_own_names_and_types():
    found = families(restore(AGENT_PAGE))
    latency = found["sieve_store_read_latency_seconds"]
    assert latency.type == "histogram"
    buckets = [(s.labels["le"], s.value) for s in latency.samples if s.name.endswith("_bucket")]
    assert buckets == [("0.0002", 0.0), ("0.001", 1.0), ("+Inf", 3.0)]
    assert latency.samples[0].labels == {"store": "redis", "le": "0.0002"}
    (errors,) = found["sieve_store_errors"].samples
    assert errors.labels == {"store": "redis", "error": 'a "}" b'}


def test_what_is_not_this_versions_metric_is_passed_on_as_it_is():
    found = families(restore(AGENT_PAGE))
    assert found["ray_node_cpu_count"].samples[0].labels == {"NodeAddress": "1.2.3.4"}
    assert found["ray_sieve_of_tomorrow"].samples[0].value == 1.0


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_every_metric_is_named_as_prometheus_asks(metric):
    assert metric.name.startswith("sieve_")
    assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
    assert metric.kind is not Kind.HISTOGRAM or metric.name.endswith("_seconds")


def test_no_two_metrics_share_a_name_and_none_is_left_out_of_the_list():
    declared = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert len({metric.name for metric in ALL}) == len(ALL)
    assert set(declared) == set(ALL)
