import numpy as np
import pytest

from training.config import EvaluationSettings, GateSettings
from training.evaluate.gate import GateResult, judge
from training.evaluate.metrics import PerUser

USERS = 400
RNG = np.random.default_rng(0)
GOOD = RNG.uniform(0.1, 0.9, USERS)
WEAK = GOOD * 0.5


def decide(
    candidate: PerUser,
    baselines: dict[str, PerUser] | None = None,
    production: PerUser | None = None,
    accepted: dict[str, PerUser] | None = None,
) -> GateResult:
    baselines = {"popular": WEAK} if baselines is None else baselines
    return judge(candidate, baselines, production, accepted or {}, GateSettings(), EvaluationSettings(), seed=0)


def failed(result: GateResult) -> list[str]:
    return [check.name for check in result.checks if not check.passed]


def test_the_first_version_passes_when_it_beats_the_baselines() -> None:
    result = decide(GOOD, {"popular": WEAK, "item-to-item": WEAK * 1.2})
    assert result.passed
    texts = [check.text for check in result.checks]
    assert "no production yet" in texts
    assert "nothing was accepted in the last 90 days" in texts
    assert result.alert == "every check holds"


def test_a_candidate_must_beat_every_baseline() -> None:
    result = decide(GOOD, {"popular": WEAK, "item-to-item": GOOD * 1.05})
    assert failed(result) == ["beats item-to-item"]
    assert result.alert.startswith("does not beat item-to-item: ")


def test_being_equal_to_a_baseline_is_not_beating_it() -> None:
    assert failed(decide(GOOD, {"popular": GOOD.copy()})) == ["beats popular"]


def test_a_higher_mean_beats_a_baseline_and_the_lower_bound_is_told() -> None:
    lucky = RNG.permutation(GOOD) + 0.002
    result = decide(lucky, {"popular": GOOD})
    assert failed(result) == []
    beats = next(check for check in result.checks if check.name == "beats popular")
    assert beats.numbers["lower_bound"] < 0 < beats.numbers["difference"]


@pytest.mark.parametrize(("share", "passes"), [(1.0, True), (0.985, True), (0.975, False), (0.5, False)])
def test_it_may_be_two_percent_worse_than_production_and_no_more(share: float, passes: bool) -> None:
    result = decide(GOOD * share, {"popular": GOOD * 0.1}, production=GOOD)
    assert (failed(result) == []) is passes
    if not passes:
        assert failed(result) == ["not worse than production"]


def test_an_uncertain_comparison_with_production_does_not_pass() -> None:
    shuffled = RNG.permutation(GOOD)
    assert shuffled.mean() == pytest.approx(GOOD.mean())
    assert failed(decide(shuffled, {"popular": GOOD * 0.1}, production=GOOD)) == ["not worse than production"]


def test_a_slow_slide_against_the_best_of_late_is_stopped() -> None:
    slid = GOOD * 0.97
    result = decide(slid, production=GOOD * 0.98, accepted={"v1": GOOD, "v2": GOOD * 0.98})
    assert failed(result) == ["near the best of 90 days"]
    assert "by v1" in result.alert
    assert decide(GOOD * 0.985, production=GOOD * 0.99, accepted={"v1": GOOD}).passed


def test_no_users_never_pass() -> None:
    nobody = np.empty(0)
    result = decide(nobody, {"popular": nobody})
    assert failed(result) == ["measured"]
    assert not decide(np.full(9, np.nan), {"popular": np.full(9, np.nan)}).passed
    assert not decide(np.array([0.5]), {"popular": np.array([0.1])}).passed


def test_a_value_that_is_missing_for_the_candidate_alone_never_passes() -> None:
    holed = GOOD.copy()
    holed[3] = np.nan
    result = decide(holed)
    assert failed(result) == ["measured"]
    assert "1 users have a value for only one of the candidate and popular" in result.alert


def test_an_infinite_value_never_passes() -> None:
    broken = GOOD.copy()
    broken[3] = np.inf
    assert not decide(broken).passed


def test_users_without_a_value_anywhere_do_not_count() -> None:
    candidate, popular = GOOD.copy(), WEAK.copy()
    candidate[:100] = popular[:100] = np.nan
    result = decide(candidate, {"popular": popular})
    assert result.passed
    assert result.checks[0].numbers == {"users": 300.0}


def test_a_gate_without_a_baseline_stays_shut() -> None:
    result = decide(GOOD, {})
    assert failed(result) == ["measured"]
    assert "no baseline" in result.alert


def test_a_production_that_finds_nothing_is_no_obstacle() -> None:
    zero = np.zeros(USERS)
    assert decide(GOOD, {"popular": zero}, production=zero).passed


def test_other_users_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="popular was measured on 3 users, the candidate on 400"):
        decide(GOOD, {"popular": np.zeros(3)})


def test_no_check_at_all_is_no_pass() -> None:
    assert not GateResult(()).passed
