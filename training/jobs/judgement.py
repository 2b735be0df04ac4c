"""Measures a candidate on the holdout, beside its parts and earlier versions, and asks the gate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.bundles.store import BundleStore
from serving.durable import write_json
from serving.errors import BundleError
from training.config import TrainingConfig
from training.evaluate.as_served import (
    ALONE,
    BASELINES,
    GATE_METRIC,
    SERVED,
    Holdout,
    answer_all,
    measure,
    summarise,
)
from training.evaluate.gate import Check, GateResult, judge
from training.evaluate.metrics import PerUser, RelevantSets
from training.features.replay import Replay
from training.registry import RegisteredBundle

JUDGEMENT = "judgement.json"


@dataclass(frozen=True)
class Judgement:
    """The gate's verdict and the table behind it: `summary` as `as_served.summarise` makes it."""

    gate: GateResult
    summary: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Every mean as `PART.METRIC`."""
        parts = self.summary["parts"].items()
        return {f"{part}.{name}": value["mean"] for part, values in parts for name, value in values.items()}

    def save(self, folder: Path) -> None:
        """Writes `judgement.json`."""
        write_json(folder / JUDGEMENT, {"checks": [asdict(c) for c in self.gate.checks], "summary": self.summary})

    @classmethod
    def load(cls, folder: Path) -> "Judgement":
        """Reads what `save` wrote."""
        document = json.loads((folder / JUDGEMENT).read_text(encoding="utf-8"))
        return cls(GateResult(tuple(Check(**check) for check in document["checks"])), document["summary"])


@dataclass(frozen=True)
class Earlier:
    """Twins of accepted versions by the version that shipped: the newest one's, and those of the gate's window."""

    production: Mapping[str, Path]
    recent: Mapping[str, Path]


def judge_candidate(
    candidate: Path,
    replay: Replay,
    holdout: Holdout,
    earlier: Earlier,
    training: TrainingConfig,
    countries: Sequence[str],
) -> Judgement:
    """Answers the holdout with the candidate, its parts alone, and the twins of earlier versions.

    `candidate` is a sealed bundle's folder. An earlier version that cannot be replayed (its twin is damaged, or was
    made for other features) is left out and named in the summary's `not_compared` with the reason.
    """
    relevant = holdout.relevant
    recommender = Recommender(Bundle.load(candidate, verify=False))
    lists = answer_all(recommender, replay, holdout, {SERVED: None, **ALONE})
    measured = {part: measure(found, holdout, relevant) for part, found in lists.items()}
    scored: dict[str, PerUser] = {}
    not_compared: dict[str, str] = {}
    for name, path in {**earlier.production, **earlier.recent}.items():
        try:
            scored[name] = _served(path, replay, holdout, relevant)
        except BundleError as error:
            not_compared[name] = str(error)
    gate = judge(
        measured[SERVED][GATE_METRIC],
        {name: measured[name][GATE_METRIC] for name in BASELINES},
        next((scored[name] for name in earlier.production if name in scored), None),
        {name: scored[name] for name in earlier.recent if name in scored},
        training.gate,
        training.evaluation,
        training.seed,
    )
    summary = summarise(measured, lists, holdout, countries, training.evaluation, training.seed)
    return Judgement(gate, {**summary, "not_compared": not_compared})


def twins_of(accepted: Sequence[RegisteredBundle], twins: BundleStore, app: str) -> dict[str, Path]:
    """The twins of accepted versions that are still there, by the version that shipped."""
    known = set(twins.versions(app))
    return {
        record.bundle_version: twins.path(app, record.tags["twin"])
        for record in accepted
        if record.tags.get("twin") in known
    }


def _served(directory: Path, replay: Replay, holdout: Holdout, relevant: RelevantSets) -> PerUser:
    lists = answer_all(Recommender(Bundle.load(directory)), replay, holdout, {SERVED: None})
    return measure(lists[SERVED], holdout, relevant)[GATE_METRIC]
