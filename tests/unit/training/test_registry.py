import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import DataError, DependencyError
from training.registry import GATE_FAILED, GATE_TAG, Registry

DAY_US = 86_400_000_000
APPROVED = {"approved_by": "gate", "data.events": "12", "feature_service": "ranker"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One database for all tests, each with an application of its own: creating the tables takes seconds."""
    return Registry(tmp_path_factory.mktemp("mlflow"))


def accept(registry: Registry, app: str, version: str, day: int, tmp_path: Path) -> None:
    run = registry.log_run(app, version, {}, {"ndcg@20": 0.1 * day})
    registry.register(app, version, tmp_path / version, run, APPROVED, {"ndcg@20": 0.1 * day}, day * DAY_US)


def test_a_run_keeps_nested_parameters_and_metrics_under_allowed_names(registry: Registry) -> None:
    params = {"seed": 7, "two_tower": {"epochs": 3, "hidden": (128,)}}
    run_id = registry.log_run("runs", "first", params, {"ndcg@20": 0.25, "loss": float("nan")}, {"sweep": "a"})
    run = registry._client.get_run(run_id)
    assert run.data.params == {"seed": "7", "two_tower.epochs": "3", "two_tower.hidden": "(128,)"}
    assert run.data.metrics["ndcg_at_20"] == 0.25
    assert run.data.tags["sweep"] == "a"
    assert run.info.status == "FINISHED"


def test_a_run_may_have_more_parameters_than_one_call_takes(registry: Registry) -> None:
    params = {f"p{i}": "x" * 7_000 for i in range(230)}
    run_id = registry.log_run("many", "wide", params, {f"m{i}": i for i in range(300)})
    data = registry._client.get_run(run_id).data
    assert len(data.params) == 230
    assert len(data.metrics) == 300


def test_a_registered_bundle_can_be_looked_up_with_all_that_was_said_of_it(registry: Registry, tmp_path: Path) -> None:
    run = registry.log_run("films", "a", {}, {})
    registry.register("films", "v1", tmp_path / "v1", run, APPROVED, {"ndcg@20": 0.3}, 5 * DAY_US)
    record = registry.record("films", "v1")
    assert record is not None
    assert (record.app, record.bundle_path, record.number) == ("films", (tmp_path / "v1").resolve(), 1)
    assert (record.run_id, record.accepted_at_us) == (run, 5 * DAY_US)
    assert record.metrics == {"ndcg@20": 0.3}
    assert record.tags == APPROVED
    assert registry.record("films", "v2") is None
    assert registry.record("nothing-yet", "v1") is None


def test_the_alias_mirrors_the_newest_registered_version(registry: Registry, tmp_path: Path) -> None:
    for day, version in enumerate(("v1", "v2"), start=1):
        accept(registry, "alias", version, day, tmp_path)
    latest = {r.bundle_version: r.is_latest_approved for r in registry.accepted_since("alias", 0)}
    assert latest == {"v2": True, "v1": False}
    assert registry._client.get_model_version_by_alias("alias", "latest-approved").tags["bundle_version"] == "v2"


def test_versions_accepted_since_an_instant_come_newest_first_the_instant_included(
    registry: Registry, tmp_path: Path
) -> None:
    for day in (3, 1, 2):
        accept(registry, "since", f"v{day}", day, tmp_path)
    assert [r.bundle_version for r in registry.accepted_since("since", 2 * DAY_US)] == ["v3", "v2"]
    assert [r.bundle_version for r in registry.accepted_since("since", 2 * DAY_US + 1)] == ["v3"]
    assert registry.accepted_since("since", 4 * DAY_US) == []
    assert registry.accepted_since("never-trained", 0) == []


def test_a_version_that_failed_the_gate_is_a_run_and_nothing_more(registry: Registry, tmp_path: Path) -> None:
    run = registry.log_run("gated", "bad", {}, {"ndcg@20": 0.01}, {GATE_TAG: GATE_FAILED})
    with pytest.raises(DataError, match="failed the gate"):
        registry.register("gated", "v1", tmp_path, run, APPROVED, {})
    assert registry.record("gated", "v1") is None
    assert registry._client.get_run(run).data.tags["gate"] == "failed"


def test_every_reason_not_to_register_is_told_at_once(registry: Registry, tmp_path: Path) -> None:
    run = registry.log_run("refused", "bad", {}, {}, {GATE_TAG: GATE_FAILED})
    with pytest.raises(DataError) as caught:
        registry.register("refused", "v1", tmp_path, run, {"bundle_path": "elsewhere"}, {})
    assert len(caught.value.problems) == 3


def test_registering_again_after_an_interruption_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    accept(registry, "again", "v1", 1, tmp_path)
    accept(registry, "again", "v1", 9, tmp_path)
    [record] = registry.accepted_since("again", 0)
    assert (record.number, record.accepted_at_us) == (1, DAY_US)


def test_registering_again_moves_the_alias_that_an_interruption_left_behind(registry: Registry, tmp_path: Path) -> None:
    accept(registry, "halfway", "v1", 1, tmp_path)
    registry._client.delete_registered_model_alias("halfway", "latest-approved")
    accept(registry, "halfway", "v1", 1, tmp_path)
    [record] = registry.accepted_since("halfway", 0)
    assert record.is_latest_approved


def test_another_process_reads_what_one_wrote_and_nothing_is_left_in_the_working_folder(
    registry: Registry, tmp_path: Path
) -> None:
    accept(registry, "shared", "v1", 1, tmp_path)
    code = (
        "import sys; from pathlib import Path; from training.registry import Registry\n"
        "assert 'mlflow' not in sys.modules\n"
        f"print(Registry(Path({str(registry.root)!r})).record('shared', 'v1').bundle_version)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=work, env=environment
    )
    assert done.stdout.strip() == "v1"
    assert "INFO" not in done.stderr
    assert list(work.iterdir()) == []


def test_usage_reports_are_off(registry: Registry) -> None:
    from mlflow.telemetry.utils import is_telemetry_disabled

    registry.accepted_since("any", 0)
    assert is_telemetry_disabled()


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(DependencyError, match=r"mlflow\.db cannot be used"):
        Registry(tmp_path).log_run("films", "a", {}, {})
