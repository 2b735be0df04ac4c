import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from serving.core.candidates import Candidates, found, source_names
from serving.core.deadline import STAGE_DEADLINE_S, Deadline
from serving.core.pressure import Pressure
from serving.core.runner import complete
from serving.core.runner import run as run_async
from serving.core.stages import Fallback, OnFailure, Pipeline, Removed, Ruled, Scored, Step
from serving.core.trace import Trace
from serving.errors import BundleError, DeadlineExceeded, DependencyError, InvalidRequest, StoreUnavailable


@dataclass
class Rows:
    """A source of fixed rows, or of an error."""

    rows: tuple[int, ...] = (1, 2, 3)
    error: Exception | None = None

    def find(self, request: str) -> Candidates:
        if self.error:
            raise self.error
        return found(np.array(self.rows, np.int32), np.zeros(len(self.rows), np.float32))


class Concatenate:
    def merge(self, request: str, pools: list[Candidates]) -> Candidates:
        row, score, source = (np.concatenate([getattr(p, c) for p in pools]) for c in ("row", "score", "source"))
        return Candidates(row, score, source)


@dataclass
class ByRow:
    """Scores a candidate by its row, or raises, or breaks its contract."""

    error: Exception | None = None
    scores: list[float] | None = None

    def score(self, request: str, candidates: Candidates) -> Scored:
        if self.error:
            raise self.error
        scores = candidates.row if self.scores is None else self.scores
        return Scored(np.asarray(scores, np.float32))


@dataclass
class DropOdd:
    honest: bool = True
    error: Exception | None = None

    def apply(self, request: str, candidates: Candidates) -> Ruled:
        if self.error:
            raise self.error
        odd = candidates.row % 2 == 1
        removed = (Removed(candidates.row[odd], "odd"),) if self.honest else ()
        return Ruled(candidates.take(~odd), removed)


def pipeline(*stages: Step, sources: tuple[Step, ...] = (Step("rows", Rows()),)) -> Pipeline[str]:
    return Pipeline("test", sources, Concatenate(), stages)


def run(*arguments) -> Candidates:
    return complete(run_async(*arguments))


def test_stages_run_in_order_and_a_scorers_order_holds():
    trace = Trace()
    sources = (Step("rows", Rows((1, 2, 4))),)
    result = run(pipeline(Step("even", DropOdd()), Step("by_row", ByRow()), sources=sources), "r", trace)
    assert result.row.tolist() == [4, 2]
    assert [(s.stage, s.count_in, s.count_out) for s in trace.stages] == [
        ("rows", 0, 3), ("merge", 3, 3), ("even", 3, 2), ("by_row", 2, 2),
    ]  # fmt: skip
    assert trace.stages[2].removed == {"odd": 1}
    assert [(r.reason, r.rows.tolist()) for r in trace.removed] == [("odd", [1])]


def test_a_failed_source_is_skipped_while_another_answers():
    sources = (Step("a", Rows(error=StoreUnavailable("down")), OnFailure.SKIP), Step("b", Rows((7,))))
    trace = Trace()
    assert run(pipeline(sources=sources), "r", trace).row.tolist() == [7]
    assert trace.failed == ["a"]


def test_when_every_source_fails_the_pipeline_fails():
    sources = tuple(Step(n, Rows(error=DependencyError(n)), OnFailure.SKIP) for n in "ab")
    with pytest.raises(DependencyError, match="b"):
        run(pipeline(sources=sources), "r", Trace())


def test_a_skipped_scorer_leaves_the_order_as_it_was():
    trace = Trace()
    result = run(pipeline(Step("by_row", ByRow(DependencyError("down")), OnFailure.SKIP)), "r", trace)
    assert result.row.tolist() == [1, 2, 3]
    assert trace.stages[-1].failure == "DependencyError"


def test_a_named_fallback_runs_where_the_stage_failed():
    step = Step("by_row", ByRow(DependencyError("down")), Fallback(ByRow()))
    trace = Trace()
    assert run(pipeline(step), "r", trace).row.tolist() == [3, 2, 1]
    assert [s.stage for s in trace.stages[-2:]] == ["by_row", "by_row"]


def test_a_stage_that_must_not_fail_fails_the_request():
    with pytest.raises(DependencyError):
        run(pipeline(Step("even", DropOdd(error=DependencyError("down")))), "r", Trace())


@pytest.mark.parametrize("error", [TypeError("bug"), KeyError("bug"), InvalidRequest("k", "no"), BundleError("x")])
def test_no_policy_hides_a_bug_a_clients_mistake_or_a_wrong_set_up(error):
    for step in (Step("by_row", ByRow(error), OnFailure.SKIP), Step("by_row", ByRow(error), Fallback(ByRow()))):
        with pytest.raises(type(error)):
            run(pipeline(step), "r", Trace())


def test_a_passed_deadline_is_a_failure_that_the_policy_deals_with():
    late = Deadline(at_s=0.0)
    quick = Step("rows", Rows(), OnFailure.SKIP)
    with pytest.raises(DeadlineExceeded):
        run(pipeline(sources=(quick,)), "r", Trace(), late)


def test_rules_run_even_when_it_is_late():
    deadline = Deadline.after_ms(60_000)

    class Slow(Rows):
        def find(self, request: str) -> Candidates:
            object.__setattr__(deadline, "at_s", 0.0)
            return super().find(request)

    stages = (Step("even", DropOdd()), Step("by_row", ByRow(), OnFailure.SKIP))
    trace = Trace()
    result = run(pipeline(*stages, sources=(Step("slow", Slow((1, 2, 4))),)), "r", trace, deadline)
    assert result.row.tolist() == [2, 4]
    assert trace.failed == ["by_row"]


def test_a_rule_that_loses_candidates_is_a_bug():
    with pytest.raises(TypeError, match="rule even was given 3 candidates, kept 1 and accounted for 0 more"):
        run(pipeline(Step("even", DropOdd(honest=False))), "r", Trace())


def test_a_scorer_of_the_wrong_length_is_a_failure_of_the_scorer():
    trace = Trace()
    step = Step("by_row", ByRow(scores=[1.0]), OnFailure.SKIP)
    assert run(pipeline(step), "r", trace).row.tolist() == [1, 2, 3]
    assert trace.failed == ["by_row"]


def test_nan_scores_are_a_failure_of_the_scorer():
    trace = Trace()
    step = Step("by_row", ByRow(scores=[1.0, float("nan"), 2.0]), OnFailure.SKIP)
    assert run(pipeline(step), "r", trace).row.tolist() == [1, 2, 3]
    assert trace.failed == ["by_row"]


def test_a_scorer_is_not_asked_about_nothing():
    step = Step("by_row", ByRow(TypeError("asked")))
    assert len(run(pipeline(Step("even", DropOdd()), step, sources=(Step("rows", Rows((1, 3))),)), "r", Trace())) == 0


def test_each_source_leaves_its_own_bit():
    down = Step("b", Rows(error=DependencyError("x")), OnFailure.SKIP)
    sources = (Step("a", Rows((5,))), down, Step("c", Rows((7,))))
    line = pipeline(sources=sources)
    result = run(line, "r", Trace())
    named = [source_names(bits, line.source_names) for bits in result.source.tolist()]
    assert dict(zip(result.row.tolist(), named, strict=True)) == {5: ["a"], 7: ["c"]}


class Elsewhere:
    """A source and scorer that gives awaitables, and waits until it is let go."""

    def __init__(self, stage, gate: asyncio.Event | None = None):
        self.stage, self.gate, self.asked = stage, gate, 0

    async def _wait(self, result):
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        return result


class RemoteRows(Elsewhere):
    def find(self, request):
        return self._wait(self.stage.find(request))


class RemoteByRow(Elsewhere):
    def score(self, request, candidates):
        return self._wait(self.stage.score(request, candidates))


def test_stages_elsewhere_give_what_inline_ones_give():
    inline = pipeline(Step("by_row", ByRow()))
    sources = (Step("rows", RemoteRows(Rows()), is_remote=True),)
    remote = pipeline(Step("by_row", RemoteByRow(ByRow()), is_remote=True), sources=sources)
    expected = run(inline, "r", Trace())
    found_elsewhere = asyncio.run(run_async(remote, "r", Trace()))
    assert found_elsewhere.row.tolist() == expected.row.tolist() == [3, 2, 1]
    assert found_elsewhere.score.tolist() == expected.score.tolist()


def test_a_source_elsewhere_runs_beside_an_inline_one_that_is_named_before_it():
    async def main():
        gate = asyncio.Event()
        remote = RemoteRows(Rows((9,)), gate)

        class Opens(Rows):
            def find(self, request):
                assert remote.asked == 1
                gate.set()
                return super().find(request)

        sources = (Step("inline", Opens((1,))), Step("remote", remote, is_remote=True))
        return await run_async(pipeline(sources=sources), "r", Trace())

    assert asyncio.run(main()).row.tolist() == [1, 9]


def test_a_stage_elsewhere_that_does_not_answer_is_given_up_at_its_budget():
    async def main(trace):
        step = Step("by_row", RemoteByRow(ByRow(), asyncio.Event()), OnFailure.SKIP, budget_ms=5, is_remote=True)
        return await run_async(pipeline(step), "r", trace, Deadline.after_ms(60_000))

    trace = Trace()
    assert asyncio.run(main(trace)).row.tolist() == [1, 2, 3]
    assert [s.failure for s in trace.stages if s.failure] == ["DeadlineExceeded"]


def test_a_pipeline_with_a_stage_elsewhere_cannot_be_completed_without_a_loop():
    step = Step("by_row", RemoteByRow(ByRow(), asyncio.Event()), is_remote=True)
    with pytest.raises(RuntimeError, match="event loop"):
        run(pipeline(step), "r", Trace())


def test_without_a_deadline_no_budget_is_cut():
    class Slow(ByRow):
        def score(self, request, candidates):
            assert STAGE_DEADLINE_S.get() == float("inf")
            return super().score(request, candidates)

    step = Step("by_row", Slow(), budget_ms=0.001, pressure=Pressure(0.001))
    assert run(pipeline(step), "r", Trace()).row.tolist() == [3, 2, 1]


def test_a_request_that_waited_long_lowers_the_quality_whatever_budget_its_scorer_has():
    pressure = Pressure(50.0)
    step = Step("by_row", ByRow(), budget_ms=50.0, pressure=pressure)
    run(pipeline(step), "r", Trace(), Deadline.after_ms(60_000, spent_ms=40_000))
    assert pressure.quality == pytest.approx(0.9)
    run(pipeline(step), "r", Trace(), Deadline.after_ms(60_000))
    assert pressure.quality == pytest.approx(0.91)


def test_a_source_elsewhere_is_not_left_alone_when_another_one_fails_the_request():
    ended = []

    class Endless(RemoteRows):
        async def _wait(self, result):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(True)
                raise

    async def main():
        sources = (Step("remote", Endless(Rows()), is_remote=True), Step("bug", Rows(error=TypeError("bug"))))
        with pytest.raises(TypeError, match="bug"):
            await run_async(pipeline(sources=sources), "r", Trace())
        await asyncio.sleep(0)
        return list(ended)  # by now: the loop's own end would cancel it in any case

    assert asyncio.run(main()) == [True]


class Admits(Pressure):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def admit(self, count, deadline):
        return min(count, self.count)


def test_what_there_is_no_time_to_score_stays_behind_in_its_order():
    trace = Trace()
    step = Step("by_row", ByRow(), pressure=Admits(2))
    result = run(pipeline(step, sources=(Step("rows", Rows((1, 2, 4, 3))),)), "r", trace)
    assert result.row.tolist() == [2, 1, 4, 3]
    assert trace.unscored == 2
    assert (np.diff(result.score) < 0).all()


def test_a_scorer_with_no_time_for_any_candidate_fails_as_late():
    trace = Trace()
    step = Step("by_row", ByRow(), OnFailure.SKIP, pressure=Admits(0))
    assert run(pipeline(step), "r", trace).row.tolist() == [1, 2, 3]
    assert trace.stages[-1].failure == "DeadlineExceeded"
