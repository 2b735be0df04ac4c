from dataclasses import dataclass

import numpy as np
import pytest

from serving.core.candidates import Candidates, found_by
from serving.core.deadline import Deadline
from serving.core.runner import run
from serving.core.stages import Fallback, OnFailure, Pipeline, Removed, Ruled, Scored, Step
from serving.core.trace import Trace
from serving.errors import BundleError, DeadlineExceeded, DependencyError, InvalidRequest, StoreUnavailable


@dataclass
class Rows:
    """A source of fixed rows, or of an error."""

    rows: tuple[int, ...] = (1, 2, 3)
    error: Exception | None = None
    name: str = "rows"

    def find(self, request: str) -> Candidates:
        if self.error:
            raise self.error
        return found_by(1, np.array(self.rows, np.int32), np.zeros(len(self.rows), np.float32))


class Concatenate:
    name = "merge"

    def merge(self, request: str, pools: list[Candidates]) -> Candidates:
        return found_by(1, np.concatenate([p.row for p in pools]), np.concatenate([p.score for p in pools]))


@dataclass
class ByRow:
    """Scores a candidate by its row, or raises, or breaks its contract."""

    error: Exception | None = None
    scores: list[float] | None = None
    name: str = "by_row"

    def score(self, request: str, candidates: Candidates) -> Scored:
        if self.error:
            raise self.error
        scores = candidates.row if self.scores is None else self.scores
        return Scored(np.asarray(scores, np.float32))


@dataclass
class DropOdd:
    honest: bool = True
    error: Exception | None = None
    name: str = "even"

    def apply(self, request: str, candidates: Candidates) -> Ruled:
        if self.error:
            raise self.error
        odd = candidates.row % 2 == 1
        removed = (Removed(candidates.row[odd], "odd"),) if self.honest else ()
        return Ruled(candidates.take(~odd), removed)


def pipeline(*stages: Step, sources: tuple[Step, ...] = (Step(Rows()),)) -> Pipeline[str]:
    return Pipeline("test", sources, Concatenate(), stages)


def test_stages_run_in_order_and_a_scorers_order_holds():
    trace = Trace()
    result = run(pipeline(Step(DropOdd()), Step(ByRow()), sources=(Step(Rows((1, 2, 4))),)), "r", trace)
    assert result.row.tolist() == [4, 2]
    assert [(s.stage, s.count_in, s.count_out) for s in trace.stages] == [
        ("rows", 0, 3), ("merge", 3, 3), ("even", 3, 2), ("by_row", 2, 2),
    ]  # fmt: skip
    assert trace.stages[2].removed == {"odd": 1}
    assert [(r.reason, r.rows.tolist()) for r in trace.removed] == [("odd", [1])]


def test_a_failed_source_is_skipped_while_another_answers():
    sources = (Step(Rows(error=StoreUnavailable("down"), name="a"), OnFailure.SKIP), Step(Rows((7,), name="b")))
    trace = Trace()
    assert run(pipeline(sources=sources), "r", trace).row.tolist() == [7]
    assert trace.failed == ["a"]


def test_when_every_source_fails_the_pipeline_fails():
    sources = tuple(Step(Rows(error=DependencyError(n), name=n), OnFailure.SKIP) for n in "ab")
    with pytest.raises(DependencyError, match="b"):
        run(pipeline(sources=sources), "r", Trace())


def test_a_skipped_scorer_leaves_the_order_as_it_was():
    trace = Trace()
    result = run(pipeline(Step(ByRow(DependencyError("down")), OnFailure.SKIP)), "r", trace)
    assert result.row.tolist() == [1, 2, 3]
    assert trace.stages[-1].failure == "DependencyError"


def test_a_named_fallback_runs_where_the_stage_failed():
    step = Step(ByRow(DependencyError("down")), Fallback(ByRow(name="by_row_too")))
    trace = Trace()
    assert run(pipeline(step), "r", trace).row.tolist() == [3, 2, 1]
    assert [s.stage for s in trace.stages[-2:]] == ["by_row", "by_row_too"]


def test_a_stage_that_must_not_fail_fails_the_request():
    with pytest.raises(DependencyError):
        run(pipeline(Step(DropOdd(error=DependencyError("down")))), "r", Trace())


@pytest.mark.parametrize("error", [TypeError("bug"), KeyError("bug"), InvalidRequest("k", "no"), BundleError("x")])
def test_no_policy_hides_a_bug_a_clients_mistake_or_a_wrong_set_up(error):
    for step in (Step(ByRow(error), OnFailure.SKIP), Step(ByRow(error), Fallback(ByRow()))):
        with pytest.raises(type(error)):
            run(pipeline(step), "r", Trace())


def test_a_passed_deadline_is_a_failure_that_the_policy_deals_with():
    late = Deadline(at_s=0.0)
    quick = Step(Rows(), OnFailure.SKIP)
    with pytest.raises(DeadlineExceeded):
        run(pipeline(sources=(quick,)), "r", Trace(), late)


def test_rules_run_even_when_it_is_late():
    deadline = Deadline.after_ms(60_000)

    class Slow(Rows):
        def find(self, request: str) -> Candidates:
            object.__setattr__(deadline, "at_s", 0.0)
            return super().find(request)

    stages = (Step(DropOdd()), Step(ByRow(), OnFailure.SKIP))
    trace = Trace()
    result = run(pipeline(*stages, sources=(Step(Slow((1, 2, 4))),)), "r", trace, deadline)
    assert result.row.tolist() == [2, 4]
    assert trace.failed == ["by_row"]


def test_a_rule_that_loses_candidates_is_a_bug():
    with pytest.raises(TypeError, match="rule even was given 3 candidates, kept 1 and accounted for 0 more"):
        run(pipeline(Step(DropOdd(honest=False))), "r", Trace())


def test_a_scorer_of_the_wrong_length_is_a_bug():
    with pytest.raises(TypeError, match="by_row"):
        run(pipeline(Step(ByRow(scores=[1.0]), OnFailure.SKIP)), "r", Trace())


def test_nan_scores_are_a_failure_of_the_scorer():
    trace = Trace()
    step = Step(ByRow(scores=[1.0, float("nan"), 2.0]), OnFailure.SKIP)
    assert run(pipeline(step), "r", trace).row.tolist() == [1, 2, 3]
    assert trace.failed == ["by_row"]


def test_a_scorer_is_not_asked_about_nothing():
    step = Step(ByRow(TypeError("asked")))
    assert len(run(pipeline(Step(DropOdd()), step, sources=(Step(Rows((1, 3))),)), "r", Trace())) == 0
