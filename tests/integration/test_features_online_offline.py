"""The same entities at the same instant: what is served is what was trained on, bit for bit."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from feature_world import WorldSize, make_world
from typer.testing import CliRunner

from serving.config import SieveConfig, SqliteOnlineStore, Vocabulary
from serving.errors import ConfigError
from serving.features.affinity import Affinity
from serving.features.assembly import Assembler
from serving.features.context import country_codes, device_codes
from serving.features.item_table import ItemTable, ItemTablePointer, verify_item_table
from serving.features.online import open_reader
from serving.features.spec import film_features
from training.commands.features import app, markdown_table
from training.data.tables import Lake
from training.features.history import InteractionLog, replay
from training.features.materialize import MaterializeReport, materialize
from training.features.repository import (
    RANKER_SERVICE,
    REPOSITORY,
    apply_definitions,
    check_services,
    open_store,
)
from training.features.training_set import AffinityInputs, FeatureReader, Requests, assemble

SIZE = WorldSize(users=80, items=60, days=12)
FEATURES = film_features(Vocabulary())
USERS = [f"u{i:07d}" for i in range(SIZE.users)] + ["nobody"]


@dataclass
class World:
    config: SieveConfig
    report: MaterializeReport
    log: InteractionLog
    store: Any
    lake: Lake


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    config = SieveConfig(root=root / "var", online_store=SqliteOnlineStore(path=root / "var" / "online.db"))
    made, lake = make_world(SIZE), Lake(config.lake)
    for table in ("users", "items", "impressions", "events"):
        lake.append(table, made.sql(f"SELECT * FROM {table}").to_arrow_table())
    apply_definitions(config)
    connection = lake.connect()
    report = materialize(config, connection)
    return World(config, report, InteractionLog.read(connection), open_store(config), lake)


@dataclass
class Bundle:
    """Stands for a trained bundle: its items, embeddings and neighbours."""

    ids: list[str]
    affinity: Affinity
    items: np.ndarray
    users: np.ndarray


def make_bundle(table: ItemTable) -> Bundle:
    rng = np.random.default_rng(1)
    ids = [table.id_of(r) for r in rng.permutation(len(table))]
    n = len(ids)
    neighbours = np.stack([rng.permutation(n)[:20] for _ in range(n)]).astype(np.int32)
    scores = rng.random(neighbours.shape).astype(np.float32)
    affinity = Affinity(neighbours, scores, table.reindex(ids).cast)
    embeddings = rng.standard_normal((n + len(USERS), 16)).astype(np.float32)
    return Bundle(ids, affinity, embeddings[:n], embeddings[n:])


def current_table(config: SieveConfig) -> ItemTable:
    directory = ItemTablePointer.current(config.item_tables)
    assert directory is not None
    assert verify_item_table(directory) == []
    return ItemTable.load(directory)


def served_rows(world: World, bundle: Bundle, candidates: list[np.ndarray]) -> np.ndarray:
    """Request by request, from the online store and the item table."""
    reader = open_reader(world.config.online_store)
    assembler = Assembler(FEATURES, world.config.features)
    table = current_table(world.config).reindex(bundle.ids)
    context = assembler.context_vector(world.report.at_us, "mobile", "DE")
    matrices = []
    for u, (user, rows) in enumerate(zip(USERS, candidates, strict=True)):
        state = reader.read(user)
        vector, _ = assembler.user_vector(state, world.report.at_us)
        history = table.rows_of(state.history_items) if state else np.empty(0, np.int32)
        extra = bundle.affinity.features(bundle.users[u], bundle.items[rows], history, rows)
        matrices.append(assembler.matrix(vector, context, table.features[rows], extra))
    return np.concatenate(matrices)


def trained_rows(world: World, bundle: Bundle, candidates: list[np.ndarray]) -> np.ndarray:
    """All at once, from the snapshots and the events."""
    config, at_us = world.config, world.report.at_us
    times = np.full(len(USERS), at_us)
    row_of = {item: row for row, item in enumerate(bundle.ids)}
    rows_of_items = np.array([row_of[item] for item in world.log.item_ids], np.int32)
    lag_us = int(config.features.history_lag_s * 1e6)
    history = replay(
        world.log, world.log.user_codes(USERS), times, lag_us, config.features.history_length, rows_of_items
    )
    requests = Requests(
        pa.array(USERS), times, device_codes(["mobile"] * len(USERS)), country_codes(["DE"] * len(USERS), FEATURES)
    )
    return assemble(
        FeatureReader(config.feature_store, FEATURES, config.features),
        requests,
        np.array([len(rows) for rows in candidates]),
        np.concatenate(candidates),
        bundle.ids,
        AffinityInputs(bundle.affinity, bundle.items, bundle.users, history),
    )


def test_served_and_trained_matrices_are_the_same_bits(world: World) -> None:
    bundle = make_bundle(current_table(world.config))
    rng = np.random.default_rng(2)
    candidates = [rng.permutation(len(bundle.ids))[: rng.integers(1, 30)].astype(np.int32) for _ in USERS]

    served, trained = served_rows(world, bundle, candidates), trained_rows(world, bundle, candidates)

    differing = [FEATURES.names[i] for i in np.flatnonzero((served != trained).any(axis=0))]
    assert differing == []
    assert served.tobytes() == trained.tobytes()
    varying = np.flatnonzero((served != served[0]).any(axis=0))
    assert len(varying) > 200


def test_feasts_historical_features_are_the_trained_ones(world: World) -> None:
    lag_us = world.config.features.snapshot_lag_s * 1_000_000
    at_us = world.report.at_us - 36 * 3_600_000_000
    items = [f"i{i % SIZE.items:07d}" for i in range(len(USERS))]
    entities = pd.DataFrame(
        {
            "user_id": USERS,
            "item_id": items,
            "event_timestamp": pd.to_datetime([at_us - lag_us] * len(USERS), unit="us", utc=True),
            "time_us": at_us,
            "device": "tv",
            "country": "US",
        }
    )
    service = world.store.get_feature_service(RANKER_SERVICE)
    joined = world.store.get_historical_features(entities, features=service).to_df()
    context = (device_codes(["tv"] * len(USERS)), country_codes(["US"] * len(USERS), FEATURES))
    matrix = assemble(
        FeatureReader(world.config.feature_store, FEATURES, world.config.features),
        Requests(pa.array(USERS), np.full(len(USERS), at_us), *context),
        np.ones(len(USERS), np.int64),
        np.array([i % SIZE.items for i in range(len(USERS))], np.int32),
        [f"i{i:07d}" for i in range(SIZE.items)],
    )

    first = len(FEATURES.user) + len(FEATURES.item)
    last = first + len(FEATURES.context) + len(FEATURES.pair)
    on_demand = np.concatenate([np.stack(joined.context_values), np.stack(joined.pair_values)], axis=1)
    assert on_demand.astype(np.float32).tobytes() == np.ascontiguousarray(matrix[:, first:last]).tobytes()
    assert joined.user_values[len(USERS) - 1] is None
    stored = np.stack([np.zeros(len(FEATURES.user)) if v is None else v for v in joined.user_values])
    known = ~np.isnan(stored) & np.array([v is not None for v in joined.user_values])[:, None]
    assert (stored[known] == matrix[:, : len(FEATURES.user)][known]).all()
    assert known.sum() > 1000


def test_the_history_view_is_replayed_and_never_joined(world: World) -> None:
    entities = pd.DataFrame({"user_id": ["u0000001"], "event_timestamp": pd.to_datetime(["2026-01-05"], utc=True)})

    with pytest.raises(Exception, match="user_history is not one packed field"):
        world.store.get_historical_features(entities, features=["user_history:items"])


def test_a_service_that_lost_features_or_a_view_is_refused_by_name(world: World, tmp_path: Path) -> None:
    config = world.config.model_copy(
        update={"root": tmp_path / "var", "online_store": SqliteOnlineStore(path=tmp_path / "online.db")}
    )
    smaller = config.model_copy(update={"vocabulary": Vocabulary(genres=("Drama", "Comedy"))})
    repository = tmp_path / "feature_repo"
    shutil.copytree(REPOSITORY, repository)
    services = repository / "services.py"
    services.write_text(services.read_text().replace("[user_stats, item_stats, context, pair]", "[user_stats, pair]"))

    with pytest.raises(ConfigError, match="ranker_v1 is not registered"):
        check_services(config, FEATURES)
    apply_definitions(smaller, repository)
    with pytest.raises(ConfigError) as caught:
        check_services(config, FEATURES)

    assert "service ranker_v1 lacks feature user_genre_horror_7d" in caught.value.problems
    assert "service retrieval_item_v1 lacks feature item_genre_western" in caught.value.problems
    assert "service ranker_v1 lacks view item_stats" in caught.value.problems


def test_definitions_that_are_gone_leave_the_registry(world: World, tmp_path: Path) -> None:
    config = world.config.model_copy(
        update={"root": tmp_path / "var", "online_store": SqliteOnlineStore(path=tmp_path / "online.db")}
    )
    repository = tmp_path / "feature_repo"
    shutil.copytree(REPOSITORY, repository)
    apply_definitions(config, repository)
    services = repository / "services.py"
    services.write_text(services.read_text().replace("retrieval_item_v1", "retrieval_item_v2"))
    apply_definitions(config, repository)

    names = {service.name for service in open_store(config).list_feature_services()}
    assert names == {"ranker_v1", "retrieval_user_v1", "retrieval_item_v2"}


def test_a_repository_that_is_missing_or_broken_is_a_configuration_error(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"feature_store\.yaml is missing"):
        apply_definitions(world.config, tmp_path)
    (tmp_path / "feature_store.yaml").touch()
    (tmp_path / "views.py").write_text("import no_such_module_at_all")
    with pytest.raises(ConfigError, match="no_such_module_at_all"):
        apply_definitions(world.config, tmp_path)


def test_the_commands_apply_materialize_and_list(world: World, tmp_path: Path) -> None:
    settings = tmp_path / "sieve.yaml"
    settings.write_text(f"root: {world.config.root}\nonline_store: {{type: sqlite, path: online.db}}\n")
    run = CliRunner()

    applied = run.invoke(app, ["apply"], obj=settings)
    early = run.invoke(app, ["materialize", "--at", "2026-01-09T12:00:00"], obj=settings)
    listed = run.invoke(app, ["list"], obj=settings)

    assert applied.exit_code == early.exit_code == listed.exit_code == 0, (applied.output, early.output)
    assert "FeatureService ranker_v1" in applied.output
    assert "snapshot 2026-01-09: " in early.output
    assert current_table(world.config).watermark_us == 1_767_916_800_000_000
    assert listed.output.split() == list(FEATURES.names)
    assert len(markdown_table(FEATURES).splitlines()) == len(FEATURES.names) + 2
