"""The training pipeline of `recommend`, from a snapshot of the tables to a registered bundle.

What is evaluated is what will serve: the candidate is exported to ONNX and sealed as a bundle before it is judged,
and every request of the holdout goes through serving's own pipeline. So the order is: snapshot, validate, features,
split, two-towers, retrieval up to T1, ranker rows T1 to T2, ranker, retrieval up to T2, candidate bundle (with
parity), evaluate, gate, then the bundle that ships (retrieval refitted on all data, the same ranker), publish,
register.

The candidate stopped at T2 is kept as the shipped bundle's twin: later candidates are compared with it, because the
shipped one has seen the weeks that they are judged on.
"""

import json
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from serving.apps.recommend import Recommender
from serving.bundles.manifest import read_manifest
from serving.bundles.store import BundleStore
from serving.config import SieveConfig
from serving.durable import write_json
from serving.errors import SieveError
from serving.features.spec import DAY_US, film_features
from training.config import LambdaMartSettings, TrainingConfig
from training.data.alarms import raise_if_alarmed
from training.data.check import check_lake
from training.data.splits import FIT, HOLDOUT, RANK, SKIPPED, assign_segments
from training.data.tables import open_lake
from training.evaluate.as_served import Holdout
from training.features.replay import Replay
from training.features.snapshots import build_snapshots
from training.jobs.draft import APP, Draft, seal_draft
from training.jobs.entities import Entities, read_entities, read_positives
from training.jobs.judgement import Earlier, Judgement, judge_candidate, twins_of
from training.jobs.neural_ranker import fit_neural_ranker
from training.jobs.ranker_rows import (
    Request,
    build_rows,
    holdout_requests,
    impression_requests,
    positive_requests,
    sample_requests,
)
from training.jobs.retrieval import Fit, fit_retrieval, open_retrieval, write_tower_data
from training.jobs.stages import Run, Stage, execute
from training.jobs.two_tower import fit_two_towers
from training.models.interactions import Interactions
from training.models.lambdamart import LambdaMart, fit_lambdamart
from training.models.neural_ranker import NeuralRanker
from training.models.ranker import Ranker, RankerRows
from training.models.tower_data import TowerData
from training.models.two_tower import TwoTower
from training.registry import GATE_FAILED, GATE_PASSED, GATE_TAG, Registry

Report = Callable[[str], None]
MODEL = "model"
CUTS = "cuts.json"
CUT_NAMES = {FIT: "t1", RANK: "t2", HOLDOUT: "t3"}


class GateFailed(SieveError):
    """The candidate is not good enough; nothing was registered."""


class RecommendTraining:
    """One run: its stages, and what they read from each other's results."""

    def __init__(self, config: SieveConfig, training: TrainingConfig, run: Run, report: Report) -> None:
        self.config = config
        self.training = training
        self.run = run
        self.report = report
        self.lake = open_lake(config)
        self.store = BundleStore(config.bundles)
        self.twins = BundleStore(config.twins)
        self.registry = Registry(config.root / "mlflow")

    @property
    def learning(self) -> list[Stage]:
        """The stages up to the candidate's evaluation; beside the run they touch alarms and feature snapshots only."""
        return [
            Stage("snapshot", self._snapshot),
            Stage("features", self._features),
            Stage("split", self._split),
            Stage("tower_data", self._tower_data),
            Stage("two_towers", self._two_towers),
            Stage("retrieval_t1", lambda partial: self._retrieval(partial, FIT)),
            Stage("ranker_rows", self._ranker_rows),
            Stage("ranker", self._ranker),
            Stage("retrieval_t2", lambda partial: self._retrieval(partial, RANK)),
            Stage("candidate", self._candidate),
            Stage("evaluation", self._evaluation),
        ]

    @property
    def release(self) -> list[Stage]:
        """The stages that make the accepted version and publish it."""
        return [
            Stage("retrieval_t3", lambda partial: self._retrieval(partial, HOLDOUT)),
            Stage("bundle", self._bundle),
            Stage("published", self._publish),
        ]

    def train(self) -> str:
        """Runs what is not done yet and returns the registered version.

        Raises:
            GateFailed: with the numbers; the experiment is recorded, nothing is registered.
            DataError: the data must not be trained on.
        """
        execute(self.run, self.learning, self.report)
        judgement = self.judgement
        if not judgement.gate.passed:
            self.log_experiment(judgement, GATE_FAILED)
            self.run.finish({"gate": GATE_FAILED, "alert": judgement.gate.alert})
            raise GateFailed(f"the gate stays shut: {judgement.gate.alert}")
        execute(self.run, self.release, self.report, first=len(self.learning) + 1)
        published = _read(self.run.output("published") / "published.json")
        self.run.finish({"gate": GATE_PASSED, "version": published["version"]})
        return str(published["version"])

    def log_experiment(self, judgement: Judgement, gate: str) -> str:
        """Records parameters, metrics and data versions as an MLflow run and returns its id."""
        tags = {GATE_TAG: gate, **{f"data.{name}": str(v) for name, v in self.versions.items()}}
        parameters = self.training.model_dump(mode="json")
        return self.registry.log_run(APP, self.run.path.name, parameters, judgement.metrics, tags)

    @cached_property
    def versions(self) -> dict[str, int]:
        """The table versions that this run reads."""
        versions: dict[str, int] = _read(self.run.output("snapshot") / "versions.json")
        return versions

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The lake at the run's versions."""
        return self.lake.connect(self.versions)

    @cached_property
    def entities(self) -> Entities:
        """The run's users and items."""
        return Entities.load(self.run.output("split"))

    @cached_property
    def replay(self) -> Replay:
        """What serving would have read in the past."""
        return Replay(self.connection, self.config, self.entities.user_ids, self.entities.item_ids)

    @cached_property
    def interactions(self) -> Interactions:
        """All positives, with the grades known now."""
        return read_positives(self.connection, self.entities)

    @cached_property
    def segment(self) -> NDArray[np.int8]:
        """int8[n]: the window of each of `interactions`."""
        found: NDArray[np.int8] = np.load(self.run.output("split") / "segment.npy", allow_pickle=False)
        return found

    @cached_property
    def cuts_us(self) -> dict[str, int]:
        """T1, T2 and T3; T3 alone where each user is cut at their own time."""
        cuts: dict[str, int] = _read(self.run.output("split") / CUTS)
        return cuts

    @cached_property
    def judgement(self) -> Judgement:
        """The candidate's metrics and the gate's verdict."""
        return Judgement.load(self.run.output("evaluation"))

    def _snapshot(self, partial: Path) -> None:
        check_lake(self.lake)
        raise_if_alarmed(self.lake)
        write_json(partial / "versions.json", self.lake.versions())

    def _features(self, partial: Path) -> None:
        features = film_features(self.config.vocabulary)
        done = build_snapshots(self.connection, self.config.feature_store, features, self.config.features)
        self.report(f"{done.built} snapshots built, {done.kept} up to date")
        write_json(partial / "snapshots.json", {"built": done.built, "kept": done.kept})

    def _split(self, partial: Path) -> None:
        entities = read_entities(self.connection, self.config.vocabulary.countries)
        entities.save(partial)
        found = read_positives(self.connection, entities)
        ids = np.char.decode(entities.item_ids, "utf-8")
        segments = assign_segments(found.user, ids[found.item], found.time_us, self.training.split)
        np.save(partial / "segment.npy", segments.segment, allow_pickle=False)
        cuts = {"t1": segments.t1_us, "t2": segments.t2_us, "t3": segments.t3_us}
        write_json(partial / CUTS, {name: cut for name, cut in cuts.items() if cut is not None})
        names = {FIT: "retrieval", RANK: "ranker", HOLDOUT: "holdout", SKIPPED: "unused"}
        counts = {name: int((segments.segment == code).sum()) for code, name in names.items()}
        self.report(", ".join(f"{count:,} {name}" for name, count in counts.items()))

    def _tower_data(self, partial: Path) -> None:
        for last, name in CUT_NAMES.items():
            write_tower_data(self._fit(last), partial / name)

    def _two_towers(self, partial: Path) -> None:
        """One job for the models of all three cuts: starting workers costs more than a small training."""
        data, work = self.run.output("tower_data"), self.run.path / "work_two_towers"
        settings, seed, workers = self.training.two_tower, self.training.seed, self.training.workers
        models = fit_two_towers(data, list(CUT_NAMES.values()), settings, seed, work, workers, self.report)
        for name, model in models.items():
            model.save(partial / name)

    def _retrieval(self, partial: Path, last: int) -> None:
        name = CUT_NAMES[last]
        model = TwoTower.load(self.run.output("two_towers") / name)
        data = TowerData.open(self.run.output("tower_data") / name)
        fit_retrieval(self._fit(last), model, data, partial)

    def _fit(self, last: int) -> Fit:
        """A fit on the windows up to `last`: on what was known before its end, or on each user's own part."""
        now_us = self.cuts_us.get(CUT_NAMES[last], self.cuts_us["t3"])
        return Fit(
            entities=self.entities,
            interactions=self._known(last, now_us),
            now_us=now_us,
            replay=self.replay,
            config=self.config,
            training=self.training,
            report=self.report,
        )

    def _known(self, last: int, now_us: int) -> Interactions:
        if "t2" in self.cuts_us:
            return read_positives(self.connection, self.entities, known_before_us=now_us)
        used = (self.segment != SKIPPED) & (self.segment <= last)
        return self.interactions.where(used)

    def _ranker_rows(self, partial: Path) -> None:
        recommender = Recommender(open_retrieval(self.run.output("retrieval_t1"), self.config, APP))
        requests = sample_requests(self._requests(), self.training.ranker_data, self.training.seed)
        self.report(f"{len(requests):,} requests")
        rows = build_rows(
            recommender, self.replay, requests, self.training.ranker_data, self.training.seed, self.report
        )
        self.report(f"{len(rows.grade):,} rows of {rows.features.shape[1]} features")
        rows.save(partial)

    def _requests(self) -> list[Request]:
        if "t2" in self.cuts_us:
            t1_us, t2_us = self.cuts_us["t1"], self.cuts_us["t2"]
            shown = impression_requests(self.connection, self.entities, t1_us, t2_us, known_before_us=t2_us)
            if shown:
                return shown
        return positive_requests(self.interactions, self.segment == RANK)

    def _ranker(self, partial: Path) -> None:
        data, settings, seed = self.run.output("ranker_rows"), self.training.ranker, self.training.seed
        ranker: Ranker
        if isinstance(settings, LambdaMartSettings):
            ranker = fit_lambdamart(RankerRows.open(data), settings, seed, progress=self.report)
        else:
            work = self.run.path / "work_ranker"
            ranker = fit_neural_ranker(data, settings, seed, work, self.training.workers, self.report)
        ranker.save(partial / MODEL)

    def _draft(self, retrieval: str, metrics: dict[str, float]) -> Draft:
        kind = LambdaMart if isinstance(self.training.ranker, LambdaMartSettings) else NeuralRanker
        return Draft(
            retrieval=self.run.output(retrieval),
            ranker=kind.load(self.run.output("ranker") / MODEL),
            rows=RankerRows.open(self.run.output("ranker_rows")),
            config=self.config,
            training=self.training,
            data_versions=self.versions,
            cuts_us=self.cuts_us,
            metrics=metrics,
        )

    @cached_property
    def holdout(self) -> Holdout:
        """The requests that the candidate is judged on."""
        limit, seed, positives = self.training.evaluation.max_users, self.training.seed, self.interactions
        held_out = self.segment == HOLDOUT
        requests = holdout_requests(self.connection, self.entities, positives, held_out, limit, seed)
        users = np.array([r.user for r in requests], np.int32)
        before = positives.where((self.segment != SKIPPED) & ~held_out)
        return Holdout(
            requests=requests,
            prior=np.bincount(before.item, minlength=before.n_items),
            prior_by_user=np.bincount(before.user, minlength=before.n_users)[users],
            country=self.entities.country[users],
        )

    def _candidate(self, partial: Path) -> None:
        draft = self._draft("retrieval_t2", {})
        version = seal_draft(draft, self.replay, self.holdout.requests, partial / APP)
        self.report(f"candidate {version}")

    def _evaluation(self, partial: Path) -> None:
        since_us = time.time_ns() // 1000 - self.training.gate.best_of_days * DAY_US
        accepted = self.registry.accepted_since(APP, 0)
        recent = [record for record in accepted if record.accepted_at_us >= since_us]
        earlier = Earlier(twins_of(accepted[:1], self.twins, APP), twins_of(recent, self.twins, APP))
        candidate = self.run.output("candidate") / APP
        countries = self.config.vocabulary.countries
        judgement = judge_candidate(candidate, self.replay, self.holdout, earlier, self.training, countries)
        for version, reason in judgement.summary["not_compared"].items():
            self.report(f"not compared with {version}: {reason}")
        judgement.save(partial)

    def _bundle(self, partial: Path) -> None:
        metrics = self.judgement.metrics
        draft = self._draft("retrieval_t3", metrics)
        version = seal_draft(draft, self.replay, self.holdout.requests, partial / APP)
        self.report(f"bundle {version}")

    def _publish(self, partial: Path) -> None:
        twin = _publish_copy(self.twins, self.run.output("candidate") / APP)
        shipped = _publish_copy(self.store, self.run.output("bundle") / APP)
        run_id = self.log_experiment(self.judgement, GATE_PASSED)
        tags = {
            "approved_by": "gate",
            "twin": twin,
            "feature_service": "ranker_v1",
            **{f"data.{name}": str(version) for name, version in self.versions.items()},
        }
        path = self.store.path(APP, shipped)
        self.registry.register(APP, shipped, path, run_id, tags, self.judgement.metrics, time.time_ns() // 1000)
        write_json(partial / "published.json", {"version": shipped, "twin": twin})


def _publish_copy(store: BundleStore, sealed: Path) -> str:
    """Publishes a copy of a sealed bundle; one that is published already stays as it is."""
    version = read_manifest(sealed).version
    if version in store.versions(APP):
        return version
    draft = store.draft(APP)
    shutil.copytree(sealed, draft, dirs_exist_ok=True)
    return store.publish(APP, draft)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
