"""A judgement is kept whole, and finds the twins of what was accepted."""

from pathlib import Path

import pytest
from bundle_fixture import APP, build_tiny_bundle

from serving.bundles.store import BundleStore
from training.evaluate.gate import Check, GateResult
from training.jobs.judgement import Judgement, twins_of
from training.registry import RegisteredBundle

PASSED = Check("measured", True, {"users": 40.0}, "40 users were measured")
FAILED = Check("beats popular", False, {"candidate": 0.1, "reference": 0.2}, "does not beat popular: 0.1 against 0.2")
SUMMARY = {
    "users": 40,
    "parts": {
        "served": {"ndcg@20": {"mean": 0.1, "low": 0.05, "high": 0.15}, "coverage@20": {"mean": 0.5}},
        "popular": {"ndcg@20": {"mean": 0.2, "low": 0.15, "high": 0.25}},
    },
    "slices": {"country DE": {"users": 3, "mean": 0.3}},
}


@pytest.mark.parametrize("checks", [(PASSED,), (PASSED, FAILED)])
def test_what_was_saved_is_read_again(tmp_path: Path, checks: tuple[Check, ...]) -> None:
    judgement = Judgement(GateResult(checks), SUMMARY)
    judgement.save(tmp_path)
    again = Judgement.load(tmp_path)
    assert again == judgement
    assert again.gate.passed == (FAILED not in checks)


def test_every_mean_is_a_metric_by_part_and_name() -> None:
    metrics = Judgement(GateResult((PASSED,)), SUMMARY).metrics
    assert metrics == {"served.ndcg@20": 0.1, "served.coverage@20": 0.5, "popular.ndcg@20": 0.2}


def record(version: str, twin: str | None) -> RegisteredBundle:
    tags = {} if twin is None else {"twin": twin}
    return RegisteredBundle(APP, version, Path("gone"), 1, "run", 0, {}, tags, False)


def test_the_twins_that_are_left_stand_under_the_versions_that_shipped(tmp_path: Path) -> None:
    twin = build_tiny_bundle(tmp_path)
    accepted = [record("newest", None), record("newer", twin.name), record("old", "20250101T000000Z-0123456789ab")]
    assert twins_of(accepted, BundleStore(tmp_path), APP) == {"newer": twin}
    assert twins_of([], BundleStore(tmp_path), APP) == {}
