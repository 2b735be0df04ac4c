"""A complete, valid film bundle of any size: the world that the serving path is measured on.

The world is kept under `build/bench` by its settings and by the code that made it, and made anew (about a minute for a
million items) when either changes. This module and what it imports is no more than a replica imports, so that what
is measured beside it is what a replica does; `serving_make` makes the world in a process of its own.
"""

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.bundles.store import BundleStore
from serving.durable import write_json
from serving.features.spec import DAY_US

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build/bench"
APP = "recommend"
EPOCH_DAYS = 14
"""Times count from the start of the running fortnight, so that new items stay new and the world can be kept."""
NEURAL, TREES = "neural", "trees"
CODE = (
    "serving/bundles",
    "serving/features/spec.py",
    "serving/features/item_table.py",
    "serving/features/feast_format.py",
    "serving/features/online.py",
    "serving/retrieval/scann_index.py",
    "training/ann.py",
    "training/export",
    "training/models/layers.py",
    "training/models/neural_ranker.py",
    "training/models/two_tower.py",
    "tests/bench/serving_bundle.py",
    "tests/bench/serving_make.py",
    "tests/bench/serving_users.py",
)
"""What has a hand in the form of the world; a change of any makes it anew."""


@dataclass(frozen=True)
class WorldSize:
    """How large the world is; equal sizes and equal code give equal worlds, but for the fortnight."""

    items: int = 1_000_000
    users: int = 10_000
    history: int = 100
    seen: int = 200
    dimension: int = 64
    seed: int = 7


@dataclass(frozen=True)
class BundleWorld:
    """Where a made world lies: one bundle store for each kind of ranker, sharing all files but the ranker's."""

    size: WorldSize
    folder: Path

    def root(self, ranker: str = NEURAL) -> Path:
        """The `root` of a configuration that serves this ranker."""
        return self.folder / ranker

    def bundle(self, ranker: str = NEURAL) -> Path:
        """The folder of the published bundle."""
        store = BundleStore(self.root(ranker) / "bundles")
        return store.path(APP, "latest")

    def second_bundle(self) -> Path:
        """The folder of an older version of the neural bundle, with a ranker of other weights."""
        store = BundleStore(self.root() / "bundles")
        return store.path(APP, store.versions(APP)[-1])


def open_bundles(size: WorldSize) -> BundleWorld:
    """The world of this size: the kept one where code and settings are those that made it, else a new one."""
    folder = CACHE / f"serving-{size.items}-{_digest(size)}"
    if not (folder / "made.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "size.json", asdict(size))
        all_threads = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        command = [sys.executable, "-m", "tests.bench.serving_make", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, env=all_threads)
    return BundleWorld(size, folder)


def run_as_replica() -> None:
    """Starts this program anew with one thread for linear algebra, as Ray gives its workers with one CPU."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OMP_NUM_THREADS": "1"})


def anchor_us() -> int:
    """The start of the running fortnight, microseconds since the epoch: the watermark of everything."""
    return int(time.time() * 1e6) // (EPOCH_DAYS * DAY_US) * EPOCH_DAYS * DAY_US


def user_ids(size: WorldSize) -> list[str]:
    """The ids of the world's users."""
    return [f"u{i:07}" for i in range(size.users)]


def _digest(size: WorldSize) -> str:
    """Of the settings, the fortnight, and every file of code that has a hand in the world."""
    digest = hashlib.sha256(f"{size} {anchor_us()}".encode())
    for name in CODE:
        found = ROOT / name
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
