"""The training pipeline as its users meet it: a small world, the real command, kills, a shut gate, broken data."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.bundles.store import BundleStore
from serving.bundles.verify import verify_bundle
from serving.config import SieveConfig, load_config
from serving.core.answer import ServedBy
from serving.core.query import Context, Query
from serving.errors import BundleError, DataError
from serving.features.item_table import ItemTable, ItemTablePointer
from serving.features.online import open_reader
from training.config import TrainingConfig
from training.data.tables import Lake
from training.features.materialize import materialize
from training.features.repository import apply_definitions
from training.jobs.recommend import RecommendTraining
from training.jobs.stages import open_run
from training.registry import Registry
from training.simulate.batch import simulate
from training.simulate.world import World, WorldSettings

pytestmark = [pytest.mark.slow, pytest.mark.ray]

APP = "recommend"
SIEVE = Path(sys.executable).with_name("sieve")
DEADLINE_S = 400
WORLD = WorldSettings(users=400, items=200, days=40)
FLOODED_FROM = "2026-02-05"
TRAINING: dict[str, Any] = {
    "split": {"method": "time", "holdout_days": 5, "ranker_days": 8},
    "two_tower": {"epochs": 1, "dimension": 16, "hidden": [32], "batch_size": 256},
    "ranker": {"model": "lambdamart", "trees": 30, "min_child_weight": 3, "learning_rate": 0.1},
    "ranker_data": {"sampled_negatives": 150},  # nearly the whole catalogue: so small a world is easily popular
    "evaluation": {"bootstrap_samples": 200},
}
WEAK_RANKER = {"model": "lambdamart", "trees": 1, "depth": 1, "min_child_weight": 1.0, "learning_rate": 0.2}
BEFORE_RANKER = ("snapshot", "features", "split", "tower_data", "two_towers", "retrieval_t1", "ranker_rows")


@dataclass(frozen=True)
class House:
    """A configuration file with everything that was made from it."""

    file: Path

    @property
    def config(self) -> SieveConfig:
        return load_config(self.file)

    @property
    def lake(self) -> Lake:
        return Lake(self.config.lake)

    @property
    def bundles(self) -> BundleStore:
        return BundleStore(self.config.bundles)

    @property
    def runs(self) -> list[Path]:
        """Oldest first."""
        return sorted((self.config.runs / APP).glob("*"))

    def registry(self) -> Registry:
        return Registry(self.config.root / "mlflow")


def write_config(file: Path, root: Path, training: dict[str, Any]) -> House:
    store = {"type": "sqlite", "path": str(root / "online.db")}
    file.write_text(yaml.safe_dump({"root": str(root), "online_store": store, "training": training}))
    return House(file)


def train(house: House, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [str(SIEVE), "-c", str(house.file), "train", APP, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files_of(*folders: Path) -> dict[Path, tuple[int, int]]:
    """What tells whether a file was written again."""
    found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@dataclass(frozen=True)
class Trained(House):
    """The house after its first run: what it printed, published and kept."""

    output: str
    version: str
    run: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("house")
    house = write_config(folder / "sieve.yaml", folder / "var", TRAINING)
    simulate(house.lake, WORLD)
    done = train(house)
    assert done.returncode == 0, done.stdout + done.stderr
    (version,) = house.bundles.versions(APP)
    return Trained(house.file, done.stdout, version, house.runs[-1])


@dataclass(frozen=True)
class Interrupted:
    """A second run: killed, looked at, resumed."""

    run: Path
    was_finished: bool
    published_before: dict[Path, tuple[int, int]]
    published_after_kill: dict[Path, tuple[int, int]]
    stages_after_kill: dict[Path, tuple[int, int]]
    resumed: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def interrupted(trained: Trained) -> Iterator[Interrupted]:
    """Killed with SIGKILL once the two-towers, the dearest stage, are done."""
    before, known = published(trained), trained.runs
    with trained.file.with_name("killed.txt").open("w") as output:
        command = [str(SIEVE), "-c", str(trained.file), "train", APP]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        wait_for_stage(trained, known, "retrieval_t1", process)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run = trained.runs[-1]
    finished, after, stages = (run / "finished.json").exists(), published(trained), stage_files(run)
    yield Interrupted(run, finished, before, after, stages, train(trained, "--resume"))
    for worker in workers:  # Ray's own processes take a minute to notice that their driver is gone
        if worker.is_running():
            worker.kill()


def wait_for_stage(house: House, known: list[Path], stage: str, process: "subprocess.Popen[Any]") -> None:
    """Returns once a run that is not among the `known` ones has finished the stage."""
    deadline = time.monotonic() + DEADLINE_S
    while not any((run / stage).is_dir() for run in house.runs if run not in known):
        assert process.poll() is None, f"the run ended with {process.returncode} before {stage}"
        assert time.monotonic() < deadline, f"{stage} was not done within {DEADLINE_S} s"
        time.sleep(0.02)


def stage_files(run: Path) -> dict[Path, tuple[int, int]]:
    """The files of finished stages; what a stage still works on is left out."""
    stages = [path for path in run.iterdir() if path.is_dir()]
    return files_of(*(p for p in stages if p.suffix != ".partial" and not p.name.startswith("work_")))


def published(house: House) -> dict[Path, tuple[int, int]]:
    return files_of(house.config.bundles, house.config.twins)


def test_training_ends_in_a_verified_bundle_and_its_twin(trained: Trained) -> None:
    assert f"registered {APP}/{trained.version}" in trained.output
    assert verify_bundle(trained.bundles.path(APP, trained.version)) == []
    twins = BundleStore(trained.config.twins)
    (twin,) = twins.versions(APP)
    assert verify_bundle(twins.path(APP, twin)) == []
    assert twin != trained.version
    assert read(trained.run / "finished.json") == {"gate": "passed", "version": trained.version}


def test_the_registry_says_from_which_data_and_who_approved(trained: Trained) -> None:
    record = trained.registry().record(APP, trained.version)
    assert record is not None
    versions = read(trained.run / "snapshot" / "versions.json")
    assert {name: record.tags[f"data.{name}"] for name in versions} == {n: str(v) for n, v in versions.items()}
    assert {"items", "users", "impressions", "events"} <= set(versions)
    assert record.tags["approved_by"] == "gate"
    assert [record.tags["twin"]] == BundleStore(trained.config.twins).versions(APP)
    assert record.bundle_path == trained.bundles.path(APP, trained.version).resolve()
    assert record.metrics["served.ndcg@20"] > record.metrics["popular.ndcg@20"]


def test_the_manifest_holds_what_the_run_recorded(trained: Trained) -> None:
    manifest = Bundle.load(trained.bundles.path(APP, trained.version)).manifest
    cuts = read(trained.run / "split" / "cuts.json")
    day = 86_400_000_000
    assert manifest.split.cuts_us == cuts
    assert (cuts["t3"], cuts["t3"] - cuts["t2"], cuts["t2"] - cuts["t1"]) == (WORLD.end_us, 5 * day, 8 * day)
    assert manifest.data_versions == read(trained.run / "snapshot" / "versions.json")
    assert manifest.training["two_tower"]["dimension"] == manifest.dimension == 16
    assert manifest.metrics["served.ndcg@20"] == served_ndcg(trained.run)


def served_ndcg(run: Path) -> float:
    summary = read(run / "evaluation" / "judgement.json")["summary"]
    return float(summary["parts"]["served"]["ndcg@20"]["mean"])


def test_a_damaged_bundle_is_refused_by_the_name_of_its_file(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / APP / trained.version
    shutil.copytree(trained.bundles.path(APP, trained.version), folder)
    Bundle.load(folder)
    damaged = folder / "models" / "ranker.onnx"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(BundleError, match=r"models/ranker\.onnx"):
        Bundle.load(folder)


@pytest.fixture(scope="module")
def served(trained: Trained) -> tuple[Recommender, int]:
    """The published bundle over materialised features, and the time that they are good for."""
    config = trained.config
    apply_definitions(config)
    report = materialize(config, trained.lake.connect())
    table = ItemTablePointer.current(config.item_tables)
    assert table is not None
    bundle = Bundle.load(trained.bundles.path(APP, trained.version))
    return Recommender(bundle, open_reader(config.online_store), ItemTable.load(table)), report.at_us


MAY_SEE = """
SELECT item_id FROM items
WHERE available_at <= make_timestamp($now_us) AT TIME ZONE 'UTC'
  AND (licence_start IS NULL OR licence_start <= make_timestamp($now_us) AT TIME ZONE 'UTC')
  AND (licence_end IS NULL OR licence_end > make_timestamp($now_us) AT TIME ZONE 'UTC')
  AND (coalesce(len(countries), 0) = 0 OR list_contains(countries, $country))
  AND coalesce(maturity, 18) <= $age
  AND item_id NOT IN (SELECT item_id FROM events
                      WHERE user_id = $user AND type IN ('play', 'completion', 'rating'))"""

VIEWERS = """
SELECT u.user_id, u.country, year(make_timestamp($now_us)) - u.birth_year AS age
FROM users u JOIN events e USING (user_id)
WHERE e.type IN ('play', 'completion', 'rating') AND year(make_timestamp($now_us)) - u.birth_year {who}
GROUP BY ALL ORDER BY count(DISTINCT e.item_id) DESC, u.user_id LIMIT 1"""


@pytest.mark.parametrize("who", ["BETWEEN 25 AND 60", "BETWEEN 13 AND 17"], ids=["adult", "minor"])
def test_a_known_user_is_served_twenty_films_that_they_may_see_and_have_not_seen(
    trained: Trained, served: tuple[Recommender, int], who: str
) -> None:
    recommender, now_us = served
    connection = trained.lake.connect()
    ((user, country, age),) = connection.execute(VIEWERS.format(who=who), {"now_us": now_us}).fetchall()
    may_see = connection.sql(MAY_SEE, params={"now_us": now_us, "country": country, "age": age - 1, "user": user})
    answer = recommender.recommend(
        Query(user_id=user, k=20, context=Context(device="tv", country=country)), now_us=now_us
    )
    items = [item.id for item in answer.items]
    assert answer.served_by == ServedBy.RANKER
    assert answer.degraded == []
    assert answer.bundle == f"{APP}/{trained.version}"
    assert len(set(items)) == 20
    assert set(items) <= {row[0] for row in may_see.fetchall()}


def test_a_killed_run_leaves_what_is_published_alone(interrupted: Interrupted) -> None:
    assert not interrupted.was_finished
    assert interrupted.published_before
    assert interrupted.published_after_kill == interrupted.published_before


def test_resuming_ends_the_same_run_without_repeating_a_stage(trained: Trained, interrupted: Interrupted) -> None:
    resumed = interrupted.resumed
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "two_towers: done before" in resumed.stdout
    assert trained.runs[-1] == interrupted.run
    stages = {path.relative_to(interrupted.run).parts[0] for path in interrupted.stages_after_kill}
    assert {"snapshot", "split", "tower_data", "two_towers", "retrieval_t1"} <= stages
    now = stage_files(interrupted.run)
    assert {path: now.get(path) for path in interrupted.stages_after_kill} == interrupted.stages_after_kill
    version = read(interrupted.run / "finished.json")["version"]
    assert f"registered {APP}/{version}" in resumed.stdout
    assert verify_bundle(trained.bundles.path(APP, version)) == []


def test_a_second_version_is_judged_against_the_first_ones_twin(trained: Trained, interrupted: Interrupted) -> None:
    checks = {check["name"]: check for check in read(interrupted.run / "evaluation" / "judgement.json")["checks"]}
    assert checks["not worse than production"]["numbers"]["reference"] == pytest.approx(served_ndcg(trained.run))
    assert checks["near the best of 90 days"]["text"].endswith(f"by {trained.version}")
    accepted = [record.bundle_version for record in trained.registry().accepted_since(APP, 0)]
    assert accepted == [read(interrupted.run / "finished.json")["version"], trained.version]


def test_a_candidate_that_loses_is_recorded_and_not_registered(trained: Trained) -> None:
    """One split of one tree cannot rank; all stages before the ranker are those of the first run."""
    training = {**TRAINING, "ranker": WEAK_RANKER}
    weak = write_config(trained.file.with_name("weak.yaml"), trained.config.root, training)
    settings = read(trained.run / "run.json")["settings"]
    settings["training"]["ranker"] |= WEAK_RANKER
    run = open_run(weak.config.runs, APP, settings, resume=False)
    for stage in BEFORE_RANKER:
        shutil.copytree(trained.run / stage, run.output(stage))
    run.release()
    before, accepted = published(trained), trained.registry().accepted_since(APP, 0)

    failed = train(weak, "--resume")

    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert re.search(r"the gate stays shut: .*\d\.\d{4} against .*\d\.\d{4}", failed.stderr)
    assert "FAILED" in failed.stdout
    assert "registered" not in failed.stdout
    outcome = read(run.path / "finished.json")
    assert outcome["gate"] == "failed"
    assert outcome["alert"] in failed.stderr
    assert published(trained) == before
    assert trained.registry().accepted_since(APP, 0) == accepted
    assert mlflow_gates(weak)[run.path.name] == "failed"
    assert mlflow_gates(weak)[trained.run.name] == "passed"


def mlflow_gates(house: House) -> dict[str, str]:
    """The gate's tag of each experiment run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{house.config.root / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(APP)
    assert experiment is not None
    return {run.info.run_name: run.data.tags["gate"] for run in client.search_runs([experiment.experiment_id])}


def test_a_column_that_turns_null_stops_training_before_it_starts(tmp_path: Path) -> None:
    house = write_config(tmp_path / "sieve.yaml", tmp_path / "var", TRAINING)
    write_flooded(house.lake)
    run = open_run(house.config.runs, APP, {}, resume=False)
    training = TrainingConfig.model_validate(TRAINING)
    with pytest.raises(DataError, match=rf"events\.device \(nulls\) since {FLOODED_FROM}"):
        RecommendTraining(house.config, training, run, lambda line: None).train()
    assert not run.has_finished("snapshot")
    assert house.bundles.versions(APP) == []


def write_flooded(lake: Lake) -> None:
    """The same world, but from one day on no event says its device."""
    world = World(WORLD)
    blocks = list(world.blocks())
    events = pa.concat_tables([block.events for block in blocks])
    since = datetime.fromisoformat(FLOODED_FROM).replace(tzinfo=UTC)
    broken = pc.greater_equal(events["event_time"], pa.scalar(since, events["event_time"].type))
    device = pc.if_else(broken, pa.scalar(None, pa.string()), events["device"])
    lake.append("users", world.users_table())
    lake.append("items", world.items_table())
    lake.append("impressions", pa.concat_tables([block.impressions for block in blocks]))
    lake.append("events", events.set_column(events.schema.get_field_index("device"), "device", device))
