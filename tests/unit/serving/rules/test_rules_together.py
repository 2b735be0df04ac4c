"""What holds of all rules together, in any order and with any settings."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rule_world import parts, request
from serving_world import DAY_US, NOW_US, N

from serving.core.candidates import Candidates
from serving.rules.caps import ProviderCapRule
from serving.rules.diversity import DiversityRule
from serving.rules.editorial import EditorialRule
from serving.rules.eligibility import EligibleRule, ExcludedRule, SeenRule
from serving.rules.exploration import ExplorationRule
from serving.rules.filters import FilterRule, ShortlistRule
from serving.rules.freshness import FreshnessRule
from serving.rules.ignored import IgnoredRule
from serving.rules.near_duplicates import NearDuplicatesRule

GROUPS = st.lists(st.integers(-1, 3), min_size=N, max_size=N).map(lambda values: dict(enumerate(values)))
TIMES = st.lists(st.integers(-40, 1), min_size=N, max_size=N).map(
    lambda days: {row: NOW_US + day * DAY_US for row, day in enumerate(days)}
)
SCORES = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, 1.0, -1.0])
CHOICES = {
    IgnoredRule: {"action": st.sampled_from(["remove", "demote"])},
    NearDuplicatesRule: {"per_franchise": st.integers(1, 3), "head": st.integers(1, 14),
                         "excess": st.sampled_from(["remove", "demote"])},
    ProviderCapRule: {"per_provider": st.integers(1, 3), "window": st.integers(1, 14)},
    FreshnessRule: {"strength": st.floats(0, 10), "half_life_days": st.floats(0.01, 100)},
    DiversityRule: {"strength": st.floats(0, 1), "depth": st.integers(1, 14), "pool": st.integers(2, 14),
                    "genre_share": st.floats(0, 1)},
    ExplorationRule: {"slot": st.integers(0, 13), "rate": st.floats(0, 1), "pool": st.integers(1, 14),
                      "draw": st.sampled_from(["uniform", "softmax"]), "temperature": st.floats(0.1, 10)},
}  # fmt: skip
ALWAYS = (SeenRule, ExcludedRule, EligibleRule, FilterRule)
STABLE = (*ALWAYS, ShortlistRule)
"""Rules that never change the order of what they keep; without settings, removing never does either."""


@pytest.fixture(scope="module")
def editorial_file(tmp_path_factory):
    times = {"from": "2000-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z", "reason": "test"}
    entries = [
        {"item": "i03", "action": "pin", "position": 0, **times},
        {"item": "i08", "action": "pin", "position": 4, **times},
        {"item": "i05", "action": "boost", "strength": 2.5, **times},
        {"item": "i01", "action": "bury", "strength": 100, **times},
    ]
    path = tmp_path_factory.mktemp("editorial") / "entries.json"
    path.write_text(json.dumps(entries))
    return path


@st.composite
def pools(draw):
    rows = draw(st.lists(st.integers(0, N - 1), unique=True, max_size=N))
    scores = draw(st.lists(SCORES, min_size=len(rows), max_size=len(rows)))
    count = len(rows)
    return Candidates(
        row=np.array(rows, np.int32),
        score=np.array(scores, np.float32),
        source=np.ones(count, np.uint32),
        features=np.array(rows, np.float32).reshape(count, 1),
    )


@st.composite
def chains(draw):
    world = parts(franchise=draw(GROUPS), edition=draw(GROUPS), provider=draw(GROUPS), available_at_us=draw(TIMES))
    built = [cls(world) for cls in ALWAYS] + [ShortlistRule(draw(st.integers(0, N)))]
    for cls, options in CHOICES.items():
        chosen = {name: draw(values) for name, values in options.items()}
        built.append(cls(world, cls.Settings(**chosen)))
    return world, built, draw(st.permutations(range(len(built) + 1)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chain=chains(), pool=pools(), rows=st.lists(st.integers(0, N - 1), max_size=5), lot=st.integers())
def test_in_any_order_nothing_is_lost_doubled_or_not_a_number(chain, pool, rows, lot, editorial_file):
    world, built, order = chain
    built = [*built, EditorialRule(world, EditorialRule.Settings(file=editorial_file))]
    asked = request(seen=rows[:2], excluded=rows[2:3], ignored=rows[3:], prediction_id=str(lot))
    before = pool
    for rule in (built[i] for i in order):
        ruled = rule.apply(asked, before)
        kept = ruled.kept
        removed = [row for each in ruled.removed for row in each.rows.tolist()]
        assert sorted([*kept.row.tolist(), *removed]) == sorted(before.row.tolist())
        assert np.isfinite(kept.score).all()
        # columns travel together
        assert kept.features[:, 0].tolist() == kept.row.tolist()
        assert kept.propensity is None or ((kept.propensity > -1e-6) & (kept.propensity <= 1 + 1e-6)).all()
        if isinstance(rule, STABLE):
            assert kept.row.tolist() == [row for row in before.row.tolist() if row not in removed]
        assert {row for mark in ruled.marked for row in mark.rows.tolist()} <= set(kept.row.tolist())
        before = kept


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_candidates_or_none_are_no_trouble(count, editorial_file):
    pool = Candidates(np.arange(count, dtype=np.int32), np.zeros(count, np.float32), np.ones(count, np.uint32))
    world = parts()
    rules = [cls(world) for cls in ALWAYS] + [cls(world, cls.Settings()) for cls in CHOICES]
    rules.append(EditorialRule(world, EditorialRule.Settings(file=editorial_file)))
    for rule in rules:
        assert rule.apply(request(), pool).kept.row.tolist() == list(range(count))
