"""Which requests are traced, and what a collector gets, over HTTP as OTLP has it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from pydantic import ValidationError

from serving.core.trace import Kind, StageTrace, Trace
from serving.observability.recorder import Outcome
from serving.observability.settings import TracingSettings
from serving.observability.tracing import MAX_WAITING, Tracer

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OUTCOME = Outcome("200", 0.002, "ranker", "stable", 20)
STAGES = Trace(
    stages=[
        StageTrace("two_tower", Kind.SOURCE, 0.5, 0, 300),
        StageTrace("seen", Kind.RULE, 0.1, 300, 250, {"seen": 50}),
        StageTrace("onnx", Kind.SCORER, 0.7, 250, 250, failure="DeadlineExceeded"),
    ]
)


@contextmanager
def collector(status: int = 200) -> Iterator[tuple[str, list[trace_service_pb2.ExportTraceServiceRequest]]]:
    received: list[trace_service_pb2.ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["content-type"] == "application/x-protobuf"
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tracer_to(endpoint: str, dropped=lambda effect, count: None, **settings: object) -> Tracer:
    return Tracer(TracingSettings.model_validate({"endpoint": endpoint, **settings}), dropped)


def spans_of(received: list[trace_service_pb2.ExportTraceServiceRequest]) -> list[trace_pb2.Span]:
    return [
        span
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes_of(span: trace_pb2.Span) -> dict[str, str | int]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }  # fmt: skip


def traceparent(flags: str = "01", version: str = "00", rest: str = "") -> str:
    return f"{version}-{TRACE_ID}-{PARENT_ID}-{flags}{rest}"


def test_a_request_becomes_a_span_with_its_stages_below_it_in_the_callers_trace():
    with collector() as (endpoint, received):
        tracer = tracer_to(endpoint, service="films")
        tracer.start()
        context = tracer.sampled(traceparent())
        tracer.record(context, "recommend", "http", OUTCOME, STAGES, "p1", "recommend/v1")
        tracer.stop()
    root, *stages = spans_of(received)
    assert root.trace_id.hex() == TRACE_ID
    assert root.parent_span_id.hex() == PARENT_ID
    assert root.name == "recommend"
    assert root.end_time_unix_nano - root.start_time_unix_nano == 2_000_000
    assert attributes_of(root)["sieve.prediction_id"] == "p1"
    assert attributes_of(root)["sieve.served_by"] == "ranker"
    assert [span.name for span in stages] == ["two_tower", "seen", "onnx"]
    assert {span.parent_span_id for span in stages} == {root.span_id}
    assert stages[1].start_time_unix_nano == root.start_time_unix_nano + 500_000
    assert attributes_of(stages[1]) == {
        "sieve.kind": "rule", "sieve.candidates_in": 300, "sieve.candidates_out": 250, "sieve.removed.seen": 50,
    }  # fmt: skip
    assert stages[2].status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert stages[2].status.message == "DeadlineExceeded"
    assert attributes_of(received[0].resource_spans[0].resource) == {"service.name": "films"}


def test_a_request_that_nobody_traces_yet_begins_a_trace_of_its_own():
    with collector() as (endpoint, received):
        tracer = tracer_to(endpoint, sample=1.0)
        tracer.start()
        for _ in range(2):
            tracer.record(tracer.sampled(None), "recommend", "grpc", Outcome("UNAVAILABLE", 0.001), None)
        tracer.stop()
    first, second = spans_of(received)
    assert first.parent_span_id == b""
    assert len(first.trace_id) == 16
    assert first.trace_id != second.trace_id
    assert first.status.code == trace_pb2.Status.STATUS_CODE_ERROR


def test_the_callers_decision_holds_whatever_the_rate():
    assert tracer_to("http://unused", sample=0.0).sampled(traceparent("01")) is not None
    assert tracer_to("http://unused", sample=1.0).sampled(traceparent("00")) is None


@pytest.mark.parametrize(
    "header",
    [
        "", "00", "no", traceparent(version="ff"), traceparent(rest="-more"), traceparent().upper(),
        traceparent().replace(TRACE_ID, "0" * 32), traceparent().replace(PARENT_ID, "0" * 16), traceparent("1"),
    ],
)  # fmt: skip
def test_a_malformed_traceparent_is_one_that_is_not_there(header):
    assert tracer_to("http://unused", sample=0.0).sampled(header) is None
    begun = tracer_to("http://unused", sample=1.0).sampled(header)
    assert begun is not None
    assert begun.parent_id == b""


def test_a_later_versions_traceparent_is_read_as_far_as_it_is_known():
    context = tracer_to("http://unused", sample=0.0).sampled(traceparent(version="01", rest="-more"))
    assert context is not None
    assert context.trace_id.hex() == TRACE_ID


def test_requests_are_sampled_at_the_configured_rate():
    tracer = tracer_to("http://unused", sample=0.3)
    traced = sum(tracer.sampled(None) is not None for _ in range(4000))
    assert 1000 < traced < 1400


@pytest.mark.parametrize("is_there", [True, False])
def test_spans_that_a_collector_does_not_take_are_counted_and_told_once(is_there, caplog):
    dropped: list[tuple[str, int]] = []
    with collector(status=503) as (endpoint, _):
        pass_on = endpoint if is_there else "http://127.0.0.1:9/v1/traces"
        tracer = tracer_to(pass_on, lambda effect, count: dropped.append((effect, count)))
        context = tracer.sampled(traceparent())
        for _ in range(150):
            tracer.record(context, "recommend", "http", OUTCOME, STAGES)
        tracer.start()
        tracer.stop()
    assert dropped == [("span", 100), ("span", 50)]
    assert len(caplog.records) == 1


def test_requests_never_wait_for_a_collector():
    dropped: list[tuple[str, int]] = []
    tracer = tracer_to("http://127.0.0.1:9/v1/traces", lambda effect, count: dropped.append((effect, count)))
    context = tracer.sampled(traceparent())
    for _ in range(MAX_WAITING + 7):  # nobody takes anything out
        tracer.record(context, "recommend", "http", OUTCOME, STAGES)
    assert dropped == [("span", 1)] * 7


@pytest.mark.parametrize("settings", [{"endpoint": "collector:4317"}, {"endpoint": "http://c", "rate": 1}, {}])
def test_settings_are_closed_and_checked(settings):
    with pytest.raises(ValidationError):
        TracingSettings.model_validate(settings)
