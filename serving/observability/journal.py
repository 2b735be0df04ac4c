"""One note for each request that ended: counted, logged where it is worth a line, traced where it is sampled."""

from serving.core.prediction import Prediction
from serving.observability.logs import AccessLog, RequestScope
from serving.observability.recorder import Outcome, Recorder
from serving.observability.tracing import Tracer


class Journal:
    """What a transport tells when an answer, or a refusal, has gone out."""

    def __init__(self, recorder: Recorder, access: AccessLog, tracer: Tracer | None = None) -> None:
        """tracer: None traces nothing."""
        self._recorder = recorder
        self._access = access
        self._tracer = tracer

    def note(
        self,
        app: str,
        transport: str,
        status: str,
        seconds: float,
        prediction: Prediction | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        """Notes one request.

        Args:
            status: HTTP status or gRPC code.
            seconds: from its arrival to its answer.
            prediction: None where it was refused.
            traceparent: the caller's W3C trace context, where it sent one.
        """
        if prediction is None:
            outcome, trace, prediction_id, bundle = Outcome(status, seconds), None, "", ""
        else:
            answer, trace = prediction.answer, prediction.trace
            outcome = Outcome(
                status,
                seconds,
                answer.served_by,
                answer.arm,
                len(answer.items),
                answer.degraded,
                prediction.fell_back,
                prediction.explored,
            )
            prediction_id, bundle = answer.prediction_id, answer.bundle
            self._recorder.missing(app, "user", prediction.request.missing)
            self._recorder.missing(app, "item", trace.missing)
        self._recorder.observe(app, transport, outcome, trace)
        with RequestScope(request_id, prediction_id or None):
            self._access.note(app, transport, outcome, bundle)
        if self._tracer is not None:
            context = self._tracer.sampled(traceparent)
            if context is not None:
                self._tracer.record(context, app, transport, outcome, trace, prediction_id, bundle)
