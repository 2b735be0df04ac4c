"""Hands metrics to the agent that Ray runs on each node, which Prometheus scrapes; the one file here that needs Ray.

Why not `ray.util.metrics`: a `Histogram.observe` costs 5 to 9 us, an answer makes about twenty, and Ray's agent
rebuilds each observation from its bucket's midpoint, so that 2,001 observations of 0.002 s in buckets of 1 and 10 ms
came out with a sum of 11.0 s instead of 4.0. Every series also carries the worker's id and is never dropped, and the
agent's exporter folds what exceeds 2,000 label sets of a metric into one series without labels: some replica
restarts, and the figures are gone.

So the growth since the last flush goes to the agent's own intake in one call: OTLP's metrics service, to which Ray's
native code reports as well. The agent adds up what it is given per label set, over all processes of the node. The
parts of a histogram are sums with a label `le`, sent as non-monotonic because a monotonic one would be named
`..._bucket_total`.
"""

import http.client
import os
from collections.abc import Sequence
from typing import Any

import grpc
import ray
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from ray import serve
from ray._private.grpc_utils import init_grpc_channel
from ray.serve.exceptions import RayServeException

from serving.errors import DependencyError
from serving.observability.metrics import Kind
from serving.observability.publisher import Publisher
from serving.observability.recorder import Recorder
from serving.observability.series import Series
from serving.observability.settings import MetricsSettings

TIMEOUT_S = 5.0


class RayAgent:
    """The metrics agent of the Ray node that this process runs on."""

    def __init__(self, host: str, intake_port: int, page_port: int, replica: str) -> None:
        """replica: what gauges of this process are told apart by."""
        self._page_address = host, page_port
        self._channel = init_grpc_channel(f"{_bracketed(host)}:{intake_port}")
        self._stub = metrics_service_pb2_grpc.MetricsServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._replica = replica
        self._known: dict[Series, list[common_pb2.KeyValue]] = {}

    @classmethod
    def here(cls) -> "RayAgent | None":
        """This node's agent; None where Ray runs without one."""
        node_id = ray.get_runtime_context().get_node_id()
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        node = next((node for node in nodes if node["NodeID"] == node_id), None)
        if node is None or node["MetricsAgentPort"] <= 0 or node["MetricsExportPort"] <= 0:
            return None
        return cls(node["NodeManagerAddress"], node["MetricsAgentPort"], node["MetricsExportPort"], _replica())

    def send(self, values: Sequence[tuple[Series, float]]) -> None:
        """Adds to the node's counters and histograms, and sets this replica's gauges.

        Raises:
            DependencyError: the agent did not take it, or not in time.
        """
        try:
            self._stub.Export(self._request(values), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise DependencyError(f"Ray's agent refused metrics: {_code(error)}") from error

    def page(self) -> str:
        """The agent's page for Prometheus.

        Raises:
            DependencyError: the agent does not answer.
        """
        # Not urllib: it would go through a proxy that the environment names.
        connection = http.client.HTTPConnection(*self._page_address, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            page = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise DependencyError(f"Ray's agent does not show its metrics: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise DependencyError(f"Ray's agent does not show its metrics: HTTP {response.status}")
        return page

    def _request(self, values: Sequence[tuple[Series, float]]) -> metrics_service_pb2.ExportMetricsServiceRequest:
        parts: dict[str, Any] = {}
        for series, value in values:
            part = parts.get(series.name)
            if part is None:
                part = parts[series.name] = _part(series)
            points = part.gauge.data_points if series.metric.kind is Kind.GAUGE else part.sum.data_points
            points.add(attributes=self._attributes(series), as_double=value)
        scope = metrics_pb2.ScopeMetrics(metrics=parts.values())
        resource = metrics_pb2.ResourceMetrics(scope_metrics=[scope])
        return metrics_service_pb2.ExportMetricsServiceRequest(resource_metrics=[resource])

    def _attributes(self, series: Series) -> list[common_pb2.KeyValue]:
        # Kept, because building them is most of a flush.
        known = self._known.get(series)
        if known is None:
            labels = series.labels
            if series.metric.kind is Kind.GAUGE:
                labels = (*labels, ("replica", self._replica))
            known = self._known[series] = [_attribute(name, text) for name, text in labels]
        return known


def open_publisher(recorder: Recorder, settings: MetricsSettings) -> Publisher:
    """A publisher of what a recorder holds, to this node's agent where there is one; it is not started yet."""
    agent = RayAgent.here() if settings.to_agent else None
    return Publisher(recorder.registry, agent, settings.flush_s)


def _part(series: Series) -> metrics_pb2.Metric:
    part = metrics_pb2.Metric(name=series.name, description=series.metric.help)
    if series.metric.kind is Kind.GAUGE:
        part.gauge.SetInParent()
        return part
    part.sum.is_monotonic = series.metric.kind is Kind.COUNTER
    part.sum.aggregation_temporality = metrics_pb2.AGGREGATION_TEMPORALITY_DELTA
    return part


def _attribute(name: str, text: str) -> common_pb2.KeyValue:
    return common_pb2.KeyValue(key=name, value=common_pb2.AnyValue(string_value=text))


def _replica() -> str:
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except RayServeException:
        return f"pid-{os.getpid()}"


def _code(error: grpc.RpcError) -> str:
    return str(error.code().name) if isinstance(error, grpc.Call) else type(error).__name__


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
