"""The Feast repository in the paths of `sieve.yaml`: definitions applied, services checked, stores opened.

The committed `feature_store.yaml` holds the defaults for Feast's own command line; here the effective settings are
made from the configuration, so that no path of a machine is ever written down.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from serving.config import RedisOnlineStore, SieveConfig, SqliteOnlineStore, load_config
from serving.errors import ConfigError
from serving.features.online import PROJECT
from serving.features.spec import FeatureSet
from training.config import RayEngine, training_config

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

REPOSITORY = Path(__file__).parents[2] / "feature_repo"
RANKER_SERVICE = "ranker_v1"
USER_SERVICE = "retrieval_user_v1"
ITEM_SERVICE = "retrieval_item_v1"
SERVICE_VIEWS = {
    RANKER_SERVICE: {"user_stats": "user", "item_stats": "item", "context": "context", "pair": "pair"},
    USER_SERVICE: {"user_stats": "user"},
    ITEM_SERVICE: {"item_stats": "item"},
}
"""Which views of the feature set each service must hold."""

_active: ContextVar[SieveConfig | None] = ContextVar("sieve_feature_config", default=None)


def active_config(definition_file: str) -> SieveConfig:
    """The configuration that definitions are made for: the one being applied, else the `sieve.yaml` beside the
    repository's folder, else the defaults there."""
    active = _active.get()
    if active is not None:
        return active
    path = Path(definition_file).resolve().parents[1] / "sieve.yaml"
    if path.exists():
        return load_config(path)
    return SieveConfig(root=path.parent / "var")


def repo_config(config: SieveConfig) -> "RepoConfig":
    """Feast's settings for this configuration.

    Raises:
        ConfigError: a mistake in the `training` section, which names the engine.
    """
    from feast.repo_config import RepoConfig

    config.feature_store.mkdir(parents=True, exist_ok=True)
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"registry_type": "file", "path": str(config.feature_store / "registry.db"), "cache_ttl_seconds": 0},
        **_engine(config),
        online_store=_online_store(config),
        entity_key_serialization_version=3,
        repo_path=config.feature_store,
    )


def open_store(config: SieveConfig) -> "FeatureStore":
    """Feast's store over this configuration."""
    from feast import FeatureStore

    return FeatureStore(config=repo_config(config))


def apply_definitions(config: SieveConfig, repository: Path = REPOSITORY) -> list[str]:
    """Registers the repository's definitions for this configuration; returns the names of what was registered.

    What the registry holds and the repository no longer defines is removed.

    Raises:
        ConfigError: the repository is missing or cannot be imported, or a service lacks features.
    """
    if not (repository / "feature_store.yaml").exists():
        raise ConfigError(f"no feature repository at {repository}", ["feature_store.yaml is missing"])
    with _applying(config), _flat_imports(repository) as modules:
        objects = _feast_objects(modules)
        store = open_store(config)
        if isinstance(config.online_store, SqliteOnlineStore):
            config.online_store.path.parent.mkdir(parents=True, exist_ok=True)
        store.apply(objects, objects_to_delete=_obsolete(store, objects), partial=False)
    return sorted(f"{type(thing).__name__} {thing.name}" for thing in objects)


def check_services(config: SieveConfig, features: FeatureSet) -> None:
    """Holds every registered feature service to the feature set.

    Raises:
        ConfigError: a service, one of its views or a feature is missing, unknown or out of its place; each is
            named.
    """
    store = open_store(config)
    problems: list[str] = []
    for service, views in SERVICE_VIEWS.items():
        problems += _service_problems(store, service, views, features)
    if problems:
        raise ConfigError("the feature services do not fit the models", [*problems, "run `sieve features apply`"])


def _service_problems(store: "FeatureStore", service: str, views: dict[str, str], features: FeatureSet) -> list[str]:
    from feast.errors import FeastObjectNotFoundException

    from training.features.asof_store import FEATURES_TAG

    try:
        held = {projection.name for projection in store.get_feature_service(service).feature_view_projections}
    except FeastObjectNotFoundException:
        return [f"service {service} is not registered"]
    tags = {view.name: view.tags or {} for view in store.list_all_feature_views()}
    problems = []
    for view, part in views.items():
        wanted = [feature.name for feature in features.views[part]]
        if view not in held or view not in tags:
            problems.append(f"service {service} lacks view {view}")
            continue
        names = tags[view].get(FEATURES_TAG, "").split(",")
        problems += [f"service {service} lacks feature {name}" for name in wanted if name not in names]
        problems += [f"service {service} has an unknown feature {name}" for name in names if name not in wanted]
        if sorted(names) == sorted(wanted) and names != wanted:
            first = next(a for a, b in zip(names, wanted, strict=True) if a != b)
            problems.append(f"service {service} holds view {view} in another order, from {first} on")
    return problems


def _engine(config: SieveConfig) -> dict[str, Any]:
    """Feast's offline store and compute engine, as `training.feature_engine` says."""
    engine = training_config(config).feature_engine
    if not isinstance(engine, RayEngine):
        return {"offline_store": {"type": "training.features.asof_store.AsofOfflineStore"}}
    started_here = {"object_store_memory": engine.object_store_mb * 2**20}
    session = {"ray_address": engine.address, "ray_conf": {} if engine.address else started_here}
    return {
        "offline_store": {
            "type": "training.jobs.ray_feature_store.RayAsofOfflineStore",
            "storage_path": str(config.feature_store / "ray"),
            **session,
        },
        "batch_engine": {"type": "ray.engine", "write_concurrency": engine.write_concurrency, **session},
        "materialization": {"pull_latest_features": True},
    }


def _online_store(config: SieveConfig) -> dict[str, Any]:
    if isinstance(config.online_store, RedisOnlineStore):
        return {"type": "redis", "connection_string": redis_connection_string(config.online_store.url)}
    return {"type": "sqlite", "path": str(config.online_store.path.resolve())}


def redis_connection_string(url: str) -> str:
    """Feast's spelling of a Redis URL: `host:port,db=0,…`."""
    parts = urlparse(url)
    options = [f"db={parts.path.strip('/') or 0}"]
    if parts.scheme == "rediss":
        options.append("ssl=true")
    if parts.username:
        options.append(f"username={unquote(parts.username)}")
    if parts.password:
        options.append(f"password={unquote(parts.password)}")
    return ",".join([f"{parts.hostname or '127.0.0.1'}:{parts.port or 6379}", *options])


@contextmanager
def _applying(config: SieveConfig) -> Iterator[None]:
    token = _active.set(config)
    try:
        yield
    finally:
        _active.reset(token)


@contextmanager
def _flat_imports(repository: Path) -> Iterator[list[ModuleType]]:
    """Imports the repository's files by their bare names, as Feast does, and forgets them afterwards."""
    names = sorted(path.stem for path in repository.glob("*.py"))
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(repository.resolve()))
    try:
        importlib.invalidate_caches()
        yield [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ConfigError(f"feature repository {repository} cannot be imported", [str(error)]) from error
    finally:
        sys.path.remove(str(repository.resolve()))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def _feast_objects(modules: list[ModuleType]) -> list[Any]:
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView

    found: dict[int, Any] = {}
    for module in modules:
        for thing in vars(module).values():
            if isinstance(thing, Entity | FeatureView | OnDemandFeatureView | FeatureService):
                found[id(thing)] = thing
    return list(found.values())


def _obsolete(store: "FeatureStore", objects: list[Any]) -> list[Any]:
    kept = {(type(thing).__name__, thing.name) for thing in objects}
    registered: list[Any] = [
        *store.list_feature_services(),
        *store.list_on_demand_feature_views(),
        *store.list_batch_feature_views(),
        *(entity for entity in store.list_entities() if entity.name != "__dummy"),
    ]
    return [thing for thing in registered if (type(thing).__name__, thing.name) not in kept]
