"""A finished request as OpenTelemetry spans, one for itself and one for each stage, in OTLP's own messages.

They are made of what the runner measured anyway. A trace holds stage times without their start, so stages stand end
to end in the order they ran; sources that ran beside each other in deployments of their own look as if they had
waited.
"""

import secrets
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from serving.core.trace import StageTrace, Trace
from serving.observability.logs import is_error
from serving.observability.recorder import Outcome


class TraceContext(NamedTuple):
    """The trace that a sampled request belongs to; parent_id is empty where the request begins it."""

    trace_id: bytes
    parent_id: bytes


class Traced(NamedTuple):
    """A finished request that is to become spans; ended_ns is nanoseconds since the epoch."""

    context: TraceContext
    app: str
    transport: str
    outcome: Outcome
    trace: Trace | None
    prediction_id: str
    bundle: str
    ended_ns: int


def export_request(batch: list[Traced], service: str) -> trace_service_pb2.ExportTraceServiceRequest:
    """The spans of finished requests, in OTLP's message."""
    spans = [span for traced in batch for span in request_spans(traced)]
    scope = trace_pb2.ScopeSpans(scope=common_pb2.InstrumentationScope(name="sieve"), spans=spans)
    resource = resource_pb2.Resource(attributes=_attributes({"service.name": service}))
    return trace_service_pb2.ExportTraceServiceRequest(
        resource_spans=[trace_pb2.ResourceSpans(resource=resource, scope_spans=[scope])]
    )


def request_spans(traced: Traced) -> list[trace_pb2.Span]:
    """One request's spans: the request's own first, then its stages'."""
    outcome, context = traced.outcome, traced.context
    started_ns = traced.ended_ns - int(outcome.seconds * 1e9)
    attributes = {
        "sieve.app": traced.app,
        "sieve.transport": traced.transport,
        "sieve.status": outcome.status,
        "sieve.served_by": str(outcome.served_by),
        "sieve.arm": str(outcome.arm),
        "sieve.bundle": traced.bundle,
        "sieve.prediction_id": traced.prediction_id,
        "sieve.degraded": ",".join(map(str, outcome.degraded)),
    }
    root = trace_pb2.Span(
        trace_id=context.trace_id,
        span_id=secrets.token_bytes(8),
        parent_span_id=context.parent_id,
        name=traced.app,
        kind=trace_pb2.Span.SPAN_KIND_SERVER,
        start_time_unix_nano=started_ns,
        end_time_unix_nano=traced.ended_ns,
        attributes=_attributes({name: value for name, value in attributes.items() if value}),
        status=_status(is_error(outcome.status), ""),
    )
    spans, at_ns = [root], started_ns
    for stage in traced.trace.stages if traced.trace is not None else ():
        spans.append(_stage_span(stage, root, at_ns))
        at_ns = spans[-1].end_time_unix_nano
    return spans


def _stage_span(stage: StageTrace, root: trace_pb2.Span, started_ns: int) -> trace_pb2.Span:
    attributes: dict[str, str | int] = {
        "sieve.kind": stage.kind.value,
        "sieve.candidates_in": stage.count_in,
        "sieve.candidates_out": stage.count_out,
    }
    attributes |= {f"sieve.removed.{reason}": count for reason, count in stage.removed.items()}
    return trace_pb2.Span(
        trace_id=root.trace_id,
        span_id=secrets.token_bytes(8),
        parent_span_id=root.span_id,
        name=stage.stage,
        kind=trace_pb2.Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=started_ns,
        end_time_unix_nano=started_ns + int(stage.ms * 1e6),
        attributes=_attributes(attributes),
        status=_status(stage.failure is not None, stage.failure or ""),
    )


def _status(failed: bool, message: str) -> trace_pb2.Status:
    code = trace_pb2.Status.STATUS_CODE_ERROR if failed else trace_pb2.Status.STATUS_CODE_UNSET
    return trace_pb2.Status(code=code, message=message)


def _attributes(values: dict[str, str] | dict[str, str | int]) -> list[common_pb2.KeyValue]:
    return [
        common_pb2.KeyValue(
            key=name,
            value=common_pb2.AnyValue(int_value=value)
            if isinstance(value, int)
            else common_pb2.AnyValue(string_value=value),
        )
        for name, value in values.items()
    ]
