"""What one answered request adds to the metrics."""

import threading

from serving.core.trace import Kind, StageTrace, Trace
from serving.observability import metrics
from serving.observability.recorder import Outcome, Recorder


def traced() -> Trace:
    return Trace(
        stages=[
            StageTrace("two_tower", Kind.SOURCE, 0.2, 0, 300),
            StageTrace("trending", Kind.SOURCE, 0.1, 0, 0, failure="StoreUnavailable"),
            StageTrace("merge", Kind.MERGE, 0.05, 300, 300),
            StageTrace("seen", Kind.RULE, 0.02, 300, 250, {"seen": 40, "stale": 10}),
            StageTrace("onnx", Kind.SCORER, 0.4, 250, 250),
        ],
        unscored=25,
    )


def counts(recorder: Recorder) -> dict[tuple[str, ...], float]:
    return {
        (series.name, *(text for _, text in series.labels)): value
        for series, value in recorder.registry.samples()
        if "_bucket" not in series.name and value
    }


def test_an_answer_is_counted_by_who_made_it_with_its_stages_and_removals():
    recorder = Recorder()
    for _ in range(3):
        recorder.observe("recommend", "http", Outcome("200", 0.0012, "ranker", "stable", items=20), traced())
    found = counts(recorder)
    assert found["sieve_requests_total", "recommend", "http", "200", "ranker", "stable"] == 3
    assert found["sieve_request_latency_seconds_count", "recommend", "http", "stable"] == 3
    assert found["sieve_stage_latency_seconds_count", "recommend", "onnx", "scorer"] == 3
    assert found["sieve_source_candidates_total", "recommend", "two_tower"] == 900
    assert found["sieve_removed_candidates_total", "recommend", "seen", "seen"] == 120
    assert found["sieve_removed_candidates_total", "recommend", "seen", "stale"] == 30
    assert found["sieve_stage_failures_total", "recommend", "trending", "StoreUnavailable"] == 3
    assert found["sieve_unscored_candidates_total", "recommend"] == 75


def test_stage_times_are_seconds():
    recorder = Recorder()
    recorder.observe("recommend", "http", Outcome("200", 0.0012, "ranker", "stable", 20), traced())
    assert counts(recorder)["sieve_stage_latency_seconds_sum", "recommend", "onnx", "scorer"] == 0.0004


def test_an_answer_made_with_less_says_so_in_the_metrics():
    recorder = Recorder()
    outcome = Outcome("200", 0.002, "precomputed", "stable", 20, degraded=("onnx", "two_tower"), fell_back=True)
    recorder.observe("recommend", "grpc", outcome)
    recorder.list_age("recommend", 4000.0)
    found = counts(recorder)
    assert found["sieve_fallbacks_total", "recommend", "precomputed"] == 1
    assert found["sieve_degraded_total", "recommend", "onnx"] == 1
    assert found["sieve_degraded_total", "recommend", "two_tower"] == 1
    assert found["sieve_precomputed_list_age_seconds_sum", "recommend"] == 4000.0


def test_an_empty_answer_and_an_explored_one_are_counted_but_an_error_is_neither():
    recorder = Recorder()
    recorder.observe("recommend", "http", Outcome("200", 0.001, "bundled", "stable", items=0))
    recorder.observe("recommend", "http", Outcome("200", 0.001, "ranker", "stable", items=20, explored=True))
    recorder.observe("recommend", "http", Outcome("422", 0.0001))
    found = counts(recorder)
    assert [key for key in found if key[0] == "sieve_empty_answers_total"] == [
        ("sieve_empty_answers_total", "recommend", "stable")
    ]
    assert found["sieve_explored_answers_total", "recommend", "stable"] == 1
    assert found["sieve_requests_total", "recommend", "http", "422", "", ""] == 1


def test_two_stages_of_one_name_and_different_kinds_are_told_apart():
    recorder = Recorder()
    trace = Trace(stages=[StageTrace("fresh", Kind.SOURCE, 1, 0, 5), StageTrace("fresh", Kind.RULE, 1, 5, 4)])
    for _ in range(2):
        recorder.observe("recommend", "http", Outcome("200", 0.001, "ranker", "stable", 4), trace)
    found = counts(recorder)
    assert found["sieve_stage_latency_seconds_count", "recommend", "fresh", "source"] == 2
    assert found["sieve_stage_latency_seconds_count", "recommend", "fresh", "rule"] == 2
    assert found["sieve_source_candidates_total", "recommend", "fresh"] == 10


def test_threads_lose_no_count():
    recorder, trace = Recorder(), traced()

    def work() -> None:
        for _ in range(2000):
            recorder.observe("recommend", "http", Outcome("200", 0.001, "ranker", "stable", 20), trace)
            recorder.store_read("redis", 0.0001, error="timeout")
            recorder.missing("recommend", "user_activity", 3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = counts(recorder)
    assert found["sieve_requests_total", "recommend", "http", "200", "ranker", "stable"] == 8000
    assert found["sieve_removed_candidates_total", "recommend", "seen", "seen"] == 320_000
    assert found["sieve_store_errors_total", "redis", "timeout"] == 8000
    assert found["sieve_store_read_latency_seconds_count", "redis"] == 8000
    assert found["sieve_missing_feature_values_total", "recommend", "user_activity"] == 24_000


def test_a_gauge_stands_at_what_it_was_set_to_last():
    recorder = Recorder()
    recorder.set(metrics.QUALITY, "recommend", value=1.0)
    recorder.set(metrics.QUALITY, "recommend", value=0.6)
    assert counts(recorder) == {("sieve_quality_factor", "recommend"): 0.6}


def test_a_late_event_loop_is_counted_by_how_late_it_was():
    recorder = Recorder()
    for late_s in (0.0004, 0.03):
        recorder.loop_lag(late_s)
    found = counts(recorder)
    assert found["sieve_event_loop_lag_seconds_count",] == 2
    assert found["sieve_event_loop_lag_seconds_sum",] == 0.0304
