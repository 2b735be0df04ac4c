"""The registry: what was trained, from which data, how well it did and who approved it (MLflow on SQLite).

It is a record for people and for the gate. Its alias `latest-approved` mirrors the newest registered version;
serving never reads it: the release document alone names what serves.
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import DataError, DependencyError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "latest-approved"
GATE_TAG = "gate"
GATE_PASSED, GATE_FAILED = "passed", "failed"
_OWN_TAGS = ("bundle_version", "bundle_path", "accepted_at_us", "metrics")
_PARAMS_PER_CALL = 100
_VALUE_MAX = 5_000
_PAGE = 1_000


@dataclass(frozen=True)
class RegisteredBundle:
    """The registry's record of one accepted bundle."""

    app: str
    bundle_version: str
    bundle_path: Path
    """Where it was published; it may have been collected since."""
    number: int
    """MLflow's number of the model version, from 1."""
    run_id: str
    accepted_at_us: int
    metrics: dict[str, float]
    tags: dict[str, str]
    """Data versions, feature service, who approved, and whatever else was given."""
    is_latest_approved: bool


class Registry:
    """Runs and accepted bundles below one folder; nothing is opened before it is needed.

    MLflow takes seconds to import and to create its tables, on first use only.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def log_run(
        self,
        app: str,
        name: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Records one experiment run, whether or not its result was any good, and returns its id.

        Args:
            app: the application, which is the experiment's name.
            params: may be nested: `{"two_tower": {"epochs": 3}}` becomes `two_tower.epochs`.
            metrics: by any name; MLflow's own refuses some characters, so `ndcg@20` becomes `ndcg_at_20`.
            tags: `{"gate": "failed"}` marks a run whose version must not be registered.
        """
        client = self._client
        run = client.create_run(self._experiment(app), run_name=name, tags={**(tags or {})})
        _log(client, run.info.run_id, params, metrics)
        client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    def register(
        self,
        app: str,
        bundle_version: str,
        bundle_path: Path,
        run_id: str,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        accepted_at_us: int | None = None,
    ) -> RegisteredBundle:
        """Records a published bundle as accepted and moves the alias to it; doing so twice changes nothing.

        Args:
            run_id: the run that made it.
            tags: must say who approved it, as `approved_by`.
            accepted_at_us: microseconds since the epoch, now where it is left out.

        Raises:
            DataError: the run failed the gate, nobody approved, or a tag has a name that the registry uses.
        """
        client = self._client
        known = self.record(app, bundle_version)
        if known:
            # An earlier attempt may have ended between the version and its alias.
            if known.number > (self._latest_number(app) or 0):
                client.set_registered_model_alias(app, ALIAS, str(known.number))
            return known
        self._refuse(client, bundle_version, run_id, tags)
        self._create_model(app)
        stamp = time.time_ns() // 1000 if accepted_at_us is None else accepted_at_us
        own = {
            "bundle_version": bundle_version,
            "bundle_path": str(bundle_path.resolve()),
            "accepted_at_us": str(stamp),
            "metrics": json.dumps(dict(metrics), sort_keys=True),
        }
        source = bundle_path.resolve().as_uri()
        made = client.create_model_version(app, source=source, run_id=run_id, tags={**tags, **own})
        client.set_registered_model_alias(app, ALIAS, made.version)
        return _record(made, is_latest=True)

    def accepted_since(self, app: str, time_us: int) -> list[RegisteredBundle]:
        """Bundles accepted at `time_us` (microseconds since the epoch) or later, newest first."""
        records = [record for record in self._records(app) if record.accepted_at_us >= time_us]
        return sorted(records, key=lambda record: (record.accepted_at_us, record.number), reverse=True)

    def record(self, app: str, bundle_version: str) -> RegisteredBundle | None:
        """The record of one bundle, None where it was never accepted."""
        return next((found for found in self._records(app) if found.bundle_version == bundle_version), None)

    def _refuse(self, client: "MlflowClient", version: str, run_id: str, tags: Mapping[str, str]) -> None:
        problems = [f"the tag {name} is the registry's own" for name in _OWN_TAGS if name in tags]
        if not tags.get("approved_by"):
            problems.append("the tag approved_by is missing")
        if client.get_run(run_id).data.tags.get(GATE_TAG) == GATE_FAILED:
            problems.append(f"its run {run_id} failed the gate")
        if problems:
            raise DataError(f"{version} must not be registered", problems)

    def _records(self, app: str) -> Iterator[RegisteredBundle]:
        client, token = self._client, None
        latest = self._latest_number(app)
        while True:
            page = client.search_model_versions(f"name = '{app}'", max_results=_PAGE, page_token=token)
            for version in page:
                if "bundle_version" in version.tags:
                    yield _record(version, is_latest=int(version.version) == latest)
            token = page.token
            if not token:
                return

    def _latest_number(self, app: str) -> int | None:
        from mlflow.exceptions import MlflowException

        try:
            return int(self._client.get_model_version_by_alias(app, ALIAS).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _create_model(self, app: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(app)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, app: str) -> str:
        from mlflow.exceptions import MlflowException

        if found := self._client.get_experiment_by_name(app):
            return str(found.experiment_id)
        location = (self.root.resolve() / "artifacts" / app).as_uri()
        try:
            return str(self._client.create_experiment(app, artifact_location=location))
        except MlflowException:  # another run made it in the meantime
            if found := self._client.get_experiment_by_name(app):
                return str(found.experiment_id)
            raise

    @cached_property
    def _client(self) -> "MlflowClient":
        return _open(self.root.resolve())


def _open(root: Path) -> "MlflowClient":
    """MLflow with its usage reports off: training must work, and stay silent, without a network."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    root.mkdir(parents=True, exist_ok=True)
    try:
        return MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    except (MlflowException, SQLAlchemyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DependencyError(f"the registry at {root / 'mlflow.db'} cannot be used: {reason}") from error


def _log(client: "MlflowClient", run_id: str, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric, Param

    entries = [Param(_allowed(name), str(value)[:_VALUE_MAX]) for name, value in _flat(params)]
    stamp_ms = time.time_ns() // 1_000_000
    numbers = [Metric(_allowed(name), float(value), stamp_ms, 0) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=numbers)
    for start in range(0, len(entries), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_CALL])


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _allowed(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


def _record(version: "ModelVersion", is_latest: bool) -> RegisteredBundle:
    tags = dict(version.tags)
    own = {name: tags.pop(name) for name in _OWN_TAGS}
    return RegisteredBundle(
        app=version.name,
        bundle_version=own["bundle_version"],
        bundle_path=Path(own["bundle_path"]),
        number=int(version.version),
        run_id=version.run_id or "",
        accepted_at_us=int(own["accepted_at_us"]),
        metrics=json.loads(own["metrics"]),
        tags=tags,
        is_latest_approved=is_latest,
    )
