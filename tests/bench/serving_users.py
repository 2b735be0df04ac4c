"""The online store of the serving world: its users' rows and histories, written by Feast's own SDK."""

import contextlib
import io
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from serving.config import OnlineStore, RedisOnlineStore, SieveConfig, SqliteOnlineStore, load_config
from serving.features.online import HISTORY_FIELDS, HISTORY_VIEW, STATS_FIELD, STATS_VIEW
from serving.features.spec import DAY_US
from tests.bench.serving_bundle import NEURAL, ROOT, BundleWorld, WorldSize, anchor_us, user_ids

if TYPE_CHECKING:
    import pandas as pd

CLUSTERS_OF_A_USER = 4
SHOWN = 30
SNAPSHOT_TTL_DAYS = 3650
STARTED_WITHIN_S = 10.0


def sqlite_store(world: BundleWorld) -> SqliteOnlineStore:
    """The world's users in SQLite, filled when it is first asked for."""
    path = world.folder / "online.db"
    if not path.is_file():
        filled, whole = world.folder / "filled.db", world.folder / "online.partial.db"
        whole.unlink(missing_ok=True)
        filled.unlink(missing_ok=True)
        _fill_apart(world, SqliteOnlineStore(path=filled))
        with contextlib.closing(sqlite3.connect(filled)) as connection:
            connection.execute("VACUUM INTO ?", (str(whole),))
        with contextlib.closing(sqlite3.connect(whole)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        whole.rename(path)
        filled.unlink()
    return SqliteOnlineStore(path=path)


@contextlib.contextmanager
def redis_store(world: BundleWorld) -> Iterator[RedisOnlineStore | None]:
    """The world's users in a Redis of its own while the block runs; None where redis-server is not installed."""
    server = shutil.which("redis-server")
    if server is None:
        yield None
        return
    folder, port = world.folder / "redis", free_port()
    folder.mkdir(exist_ok=True)
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        store = RedisOnlineStore(type="redis", url=f"redis://127.0.0.1:{port}/0")
        client = _client(store)
        if not client.dbsize():
            _fill_apart(world, store)
            client.save()
        yield store
    finally:
        process.terminate()
        process.wait(30)


def world_config(world: BundleWorld, ranker: str = NEURAL, online: OnlineStore | None = None, **server: Any) -> Path:
    """Writes the `sieve.yaml` that serves this world and returns its path."""
    online = online or sqlite_store(world)
    path = world.folder / f"{ranker}.yaml"
    document = {
        "root": str(world.root(ranker)),
        "online_store": online.model_dump(mode="json"),
        "features": {"snapshot_ttl_days": SNAPSHOT_TTL_DAYS},
        "server": server,
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    load_config(path)
    return path


def feast_store(world: BundleWorld, online: OnlineStore) -> Any:
    """Feast's SDK over the world's users."""
    from training.features.repository import apply_definitions, open_store

    config = _feast_config(world, online)
    with contextlib.redirect_stdout(io.StringIO()):
        apply_definitions(config)
        return open_store(config)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _feast_config(world: BundleWorld, online: OnlineStore) -> SieveConfig:
    features = {"snapshot_ttl_days": SNAPSHOT_TTL_DAYS}
    return SieveConfig(root=world.folder / f"feast-{online.type}", online_store=online, features=features)


def _client(store: RedisOnlineStore) -> Any:
    import redis

    client = redis.Redis.from_url(store.url)
    limit = time.monotonic() + STARTED_WITHIN_S
    while True:
        try:
            client.ping()
            return client
        except redis.RedisError:
            if time.monotonic() > limit:
                raise


def _fill_apart(world: BundleWorld, online: OnlineStore) -> None:
    # Feast, pandas and torch stay out of the process that is measured
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.serving_users"]
    document = json.dumps({"online_store": online.model_dump(mode="json")})
    subprocess.run([*command, str(world.folder), document], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main(folder: Path, document: str) -> None:
    """Fills the online store of a document `{"online_store": ...}` with the users of the world in a folder."""
    size = WorldSize(**json.loads((folder / "size.json").read_text(encoding="utf-8")))
    _fill(BundleWorld(size, folder), SieveConfig.model_validate_json(document).online_store)


def _fill(world: BundleWorld, online: OnlineStore) -> None:
    store = feast_store(world, online)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        store.write_to_online_store(STATS_VIEW, _statistics(world))
        store.write_to_online_store(HISTORY_VIEW, _histories(world))


def _statistics(world: BundleWorld) -> "pd.DataFrame":
    import pandas as pd

    from tests.bench.serving_make import user_rows

    users, at = user_ids(world.size), datetime.fromtimestamp(anchor_us() / 1e6, UTC)
    rows = user_rows(world.size, len(users))
    return pd.DataFrame({"user_id": users, STATS_FIELD: list(rows), "event_timestamp": at, "created": at})


def _histories(world: BundleWorld) -> "pd.DataFrame":
    """`history` items of a few clusters each, oldest first, `seen` items that hold them, and some shown in vain."""
    import pandas as pd

    from tests.bench.serving_make import Clusters

    size, clusters = world.size, Clusters(world.size)
    rng = np.random.default_rng((size.seed, size.users))
    at = datetime.fromtimestamp(anchor_us() / 1e6, UTC)
    rows_by_name: dict[str, list[Any]] = {name: [] for name in HISTORY_FIELDS}
    for _ in range(size.users):
        chosen = rng.integers(0, clusters.count, CLUSTERS_OF_A_USER)[rng.integers(0, CLUSTERS_OF_A_USER, size.seen)]
        rows = np.unique(clusters.members(chosen, rng.integers(0, clusters.width, size.seen)))
        history = rng.permutation(rows)[: size.history]
        shown = np.unique(clusters.members(chosen[:SHOWN], rng.integers(0, clusters.width, SHOWN)))
        stored = {
            "items": _ids(history),
            "times_us": np.sort(anchor_us() - rng.integers(1, 90 * DAY_US, len(history))),
            "grades": rng.integers(1, 4, len(history)).astype(np.float32),
            "seen": _ids(rows),
            "shown": _ids(shown),
            "shown_counts": np.sort(rng.integers(2, 9, len(shown))).astype(np.float32)[::-1],
        }
        for name, values in rows_by_name.items():
            values.append(stored[name])
    return pd.DataFrame({"user_id": user_ids(size), **rows_by_name, "event_timestamp": at, "created": at})


def _ids(rows: np.ndarray) -> list[str]:
    return [f"i{row:07}" for row in rows.tolist()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
