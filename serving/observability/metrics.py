"""Every metric that Sieve exports, in one place: name, kind, labels, buckets, meaning.

Names follow Prometheus: `sieve_` first, base units (`_seconds`), `_total` for what only grows. A histogram `x` is
three series, `x_bucket` (cumulative, label `le`), `x_sum` and `x_count`, so a quantile is asked for as

    histogram_quantile(0.99, sum by (le) (rate(sieve_request_latency_seconds_bucket{app="recommend"}[5m])))

`GET /metrics` of a gateway answers with these names and types. A scrape of Ray's agent itself finds the same series
behind Ray's prefix (`ray_sieve_request_latency_seconds_bucket`), histograms typed as gauges because of how they are
handed over (`ray_export`); one relabelling rule, `ray_(sieve_.+)` to `$1`, makes both alike: see docs/observability.md.

Counters and histograms are the sum over the replicas of a node; a gauge belongs to one replica and says which in the
label `replica`. Label values come from configuration and from closed sets in the code, never from a request.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a metric moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, eq=False, slots=True)
class Metric:
    """One metric, equal to itself only; `buckets` are a histogram's upper bounds, ascending, without +Inf."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# Dense around a millisecond, where answers are; the last ones show what a deadline should have cut.
REQUEST_BUCKETS_S = (
    0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0
)  # fmt: skip
STAGE_BUCKETS_S = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 0.5)
READ_BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0)
LAG_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
LIST_AGE_BUCKETS_S = (900.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0)

REQUESTS = Metric(
    "sieve_requests_total",
    Kind.COUNTER,
    "Requests answered, errors included; served_by and arm are empty where no list was made",
    ("app", "transport", "status", "served_by", "arm"),
)
REQUEST_LATENCY = Metric(
    "sieve_request_latency_seconds",
    Kind.HISTOGRAM,
    "From a request's arrival in the replica to its answer",
    ("app", "transport", "arm"),
    REQUEST_BUCKETS_S,
)
STAGE_LATENCY = Metric(
    "sieve_stage_latency_seconds",
    Kind.HISTOGRAM,
    "Time of one stage of the pipeline",
    ("app", "stage", "kind"),
    STAGE_BUCKETS_S,
)
STAGE_FAILURES = Metric(
    "sieve_stage_failures_total",
    Kind.COUNTER,
    "Stages that failed and were dealt with by their policy",
    ("app", "stage", "error"),
)
SOURCE_CANDIDATES = Metric(
    "sieve_source_candidates_total", Kind.COUNTER, "Candidates found by a source", ("app", "source")
)
REMOVED = Metric(
    "sieve_removed_candidates_total", Kind.COUNTER, "Candidates that a rule took out", ("app", "rule", "reason")
)
UNSCORED = Metric("sieve_unscored_candidates_total", Kind.COUNTER, "Candidates that a scorer had no time for", ("app",))
FALLBACKS = Metric(
    "sieve_fallbacks_total",
    Kind.COUNTER,
    "Answers made by a link of the fallback chain because an earlier one could not",
    ("app", "link"),
)
DEGRADED = Metric("sieve_degraded_total", Kind.COUNTER, "Answers that say what they did without", ("app", "reason"))
EMPTY = Metric("sieve_empty_answers_total", Kind.COUNTER, "Answers without an item", ("app", "arm"))
EXPLORED = Metric("sieve_explored_answers_total", Kind.COUNTER, "Answers with an explored slot", ("app", "arm"))
PRECOMPUTED_AGE = Metric(
    "sieve_precomputed_list_age_seconds",
    Kind.HISTOGRAM,
    "Age of a precomputed list when it was read for an answer",
    ("app",),
    LIST_AGE_BUCKETS_S,
)
MISSING_FEATURES = Metric(
    "sieve_missing_feature_values_total",
    Kind.COUNTER,
    "Feature values that a default stood in for",
    ("app", "view"),
)
STORE_READ_LATENCY = Metric(
    "sieve_store_read_latency_seconds", Kind.HISTOGRAM, "One read of a store", ("store",), READ_BUCKETS_S
)
STORE_ERRORS = Metric("sieve_store_errors_total", Kind.COUNTER, "Reads of a store that failed", ("store", "error"))
SHED = Metric("sieve_shed_requests_total", Kind.COUNTER, "Requests refused because of too much work", ("app", "reason"))
CANCELLED = Metric("sieve_cancelled_requests_total", Kind.COUNTER, "Requests whose caller went away", ("app",))
DROPPED = Metric(
    "sieve_dropped_effects_total",
    Kind.COUNTER,
    "Side effects (prediction log, shadow, spans) dropped because their queue was full",
    ("effect",),
)
LOOP_LAG = Metric(
    "sieve_event_loop_lag_seconds",
    Kind.HISTOGRAM,
    "How late the event loop comes back to a timer",
    buckets=LAG_BUCKETS_S,
)
IN_FLIGHT = Metric("sieve_in_flight_requests", Kind.GAUGE, "Requests that wait for their turn", ("app",))
QUALITY = Metric(
    "sieve_quality_factor", Kind.GAUGE, "Share of the candidates that are ranked: 1, less under pressure", ("app",)
)
BUNDLE = Metric("sieve_bundle_info", Kind.GAUGE, "1 for each bundle in force", ("app", "arm", "bundle"))
BUNDLE_AGE = Metric("sieve_bundle_age_seconds", Kind.GAUGE, "Time since the bundle in force was made", ("app", "arm"))
WATERMARK_AGE = Metric(
    "sieve_feature_watermark_age_seconds",
    Kind.GAUGE,
    "Time since the newest event behind the features in force",
    ("app", "view"),
)

ALL: tuple[Metric, ...] = (
    REQUESTS, REQUEST_LATENCY, STAGE_LATENCY, STAGE_FAILURES, SOURCE_CANDIDATES, REMOVED, UNSCORED, FALLBACKS, DEGRADED,
    EMPTY, EXPLORED, PRECOMPUTED_AGE, MISSING_FEATURES, STORE_READ_LATENCY, STORE_ERRORS, SHED, CANCELLED, DROPPED,
    LOOP_LAG, IN_FLIGHT, QUALITY, BUNDLE, BUNDLE_AGE, WATERMARK_AGE,
)  # fmt: skip
