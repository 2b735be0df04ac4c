"""The gate: whether a candidate may be registered.

It passes when (a) it beats every baseline: the mean of the paired differences is above 0; (b) the one-sided 95 %
lower bound of the paired difference against production is no lower than -2 % of production's mean; and
(c) its mean is at least 0.98 of the best version accepted in the last 90 days, measured on the same users.
Without (c), 0.98 a night might become 0.55 in a month. All shares and days are settings.

The metric is NDCG@20. NaN marks a user without anything relevant; whoever has a value for one version must have
one for all, otherwise something was not measured and the gate stays shut, as it does on no users at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.config import EvaluationSettings, GateSettings
from training.evaluate.bootstrap import Difference, paired_difference
from training.evaluate.metrics import PerUser

MIN_USERS = 2


@dataclass(frozen=True)
class Check:
    """One condition: whether it holds, its numbers, and a sentence that a person can act on."""

    name: str
    passed: bool
    numbers: dict[str, float]
    text: str


@dataclass(frozen=True)
class GateResult:
    """All checks of a candidate."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds; False without any check."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def alert(self) -> str:
        """What a person is told: the failed checks with their numbers, or that all hold."""
        failed = [check.text for check in self.checks if not check.passed]
        return "; ".join(failed) if failed else "every check holds"


def judge(
    candidate: PerUser,
    baselines: Mapping[str, PerUser],
    production: PerUser | None,
    accepted: Mapping[str, PerUser],
    settings: GateSettings,
    evaluation: EvaluationSettings,
    seed: int,
) -> GateResult:
    """Judges one candidate.

    Args:
        candidate: float64[U], the metric of each user of the holdout.
        baselines: the same users under each baseline; there must be one.
        production: the same users under the version in production; None where nothing is.
        accepted: the same users under each version accepted lately, scored anew.

    Raises:
        ValueError: an array is of another number of users.
    """
    others = {**baselines, **({} if production is None else {"production": production}), **accepted}
    sound = _measured(candidate, others, bool(baselines))
    if not sound.passed:
        return GateResult((sound,))
    compare = {
        name: paired_difference(candidate, other, evaluation.bootstrap_samples, seed) for name, other in others.items()
    }
    return GateResult(
        (
            sound,
            *(_beats(name, compare[name]) for name in baselines),
            _not_worse(compare.get("production"), settings.max_loss_vs_production),
            _near_best({name: compare[name] for name in accepted}, settings),
        )
    )


def _measured(candidate: PerUser, others: Mapping[str, PerUser], has_baseline: bool) -> Check:
    have = np.isfinite(candidate)
    numbers = {"users": float(have.sum())}
    problems = [] if have.sum() >= MIN_USERS else [f"{have.sum()} users have a value, {MIN_USERS} are needed"]
    if not has_baseline:
        problems.append("no baseline was measured")
    for name, other in others.items():
        if other.shape != candidate.shape:
            raise ValueError(f"{name} was measured on {len(other)} users, the candidate on {len(candidate)}")
        if different := int((np.isfinite(other) != have).sum()):
            problems.append(f"{different} users have a value for only one of the candidate and {name}")
    return Check("measured", not problems, numbers, "; ".join(problems) or f"{have.sum()} users were measured")


def _beats(name: str, difference: Difference) -> Check:
    passed = difference.mean > 0
    verb = "beats" if passed else "does not beat"
    text = (
        f"{verb} {name}: {difference.candidate:.4f} against {difference.reference:.4f}, "
        f"difference {difference.mean:+.4f} with lower bound {difference.lower_bound:+.4f}"
    )
    return Check(f"beats {name}", passed, _numbers(difference), text)


def _not_worse(difference: Difference | None, max_loss: float) -> Check:
    name = "not worse than production"
    if difference is None:
        return Check(name, True, {}, "no production yet")
    allowed = -max_loss * difference.reference
    passed = difference.lower_bound >= allowed
    text = (
        f"{difference.candidate:.4f} against production's {difference.reference:.4f}: the difference's lower bound "
        f"{difference.lower_bound:+.4f} is {'within' if passed else 'below'} the {allowed:+.4f} allowed"
    )
    return Check(name, passed, _numbers(difference) | {"allowed": allowed}, text)


def _near_best(accepted: Mapping[str, Difference], settings: GateSettings) -> Check:
    name = f"near the best of {settings.best_of_days} days"
    if not accepted:
        return Check(name, True, {}, f"nothing was accepted in the last {settings.best_of_days} days")
    version, best = max(accepted.items(), key=lambda entry: (entry[1].reference, entry[0]))
    needed = settings.min_share_of_best * best.reference
    passed = best.candidate >= needed
    text = (
        f"{best.candidate:.4f} is {'at least' if passed else 'less than'} {settings.min_share_of_best:g} of the best, "
        f"{best.reference:.4f} by {version}"
    )
    return Check(name, passed, {"candidate": best.candidate, "best": best.reference, "needed": needed}, text)


def _numbers(difference: Difference) -> dict[str, float]:
    return {
        "candidate": difference.candidate,
        "reference": difference.reference,
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "lower_bound": difference.lower_bound,
    }
