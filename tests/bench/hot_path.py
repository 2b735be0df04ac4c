"""Where the time of one request's features and ranking goes, part by part: `python -m tests.bench.hot_path`.

Generated data of a large catalogue in memory-mapped files, so that rows are as cold as in a replica. Each row of the
table is the median and the fastest tenth over many requests; the bare call of ONNX Runtime on ready inputs is the
floor that the rest is held against.

Legend: N items, d embedding length, K neighbours, L history, C candidates.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from serving.bundles.layout import CANDIDATE, FEATURES, REQUEST
from serving.bundles.manifest import FeatureManifest
from serving.bundles.onnx_models import open_session
from serving.config import Vocabulary
from serving.core.deadline import STAGE_DEADLINE_S
from serving.durable import write_json
from serving.features.affinity import Affinity, similarity
from serving.features.assembly import Assembler
from serving.features.pair import pair_features
from serving.features.spec import film_features
from serving.ranking.onnx import run_model
from training.export.ranker import export_split_ranker
from training.export.towers import export_neural_ranker
from training.models.neural_ranker import NeuralRanker

REPORT = Path(__file__).parents[2] / "build/reports/hot_path.json"
DIMENSION, NEIGHBOURS, HISTORY, CLUSTER, MISSING = 64, 50, 100, 1000, 0.05
TIME_US = 1_767_441_600_000_000
TARGET_US = 150.0
FEATURE_SET = film_features(Vocabulary())
MODEL = "ONNX, split inputs (floor)"
ASSEMBLY = "features, all of them"

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One request: history int32[L] and candidates int32[C]."""

    history: np.ndarray
    candidates: np.ndarray


class World:
    """Items in clusters: an item's neighbours share its cluster, and a history lies in four of them."""

    def __init__(self, folder: Path, items: int, seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        self.items = items
        self.order = rng.permutation(items).astype(np.int32)
        values = rng.random((items, len(FEATURE_SET.item)), dtype=np.float32) * 3
        values[rng.random(values.shape, dtype=np.float32) < MISSING] = np.nan
        first = FEATURE_SET.position["item_genre_action"]
        values[:, first:] = rng.random((items, values.shape[1] - first), dtype=np.float32) < 0.12
        self.features = _mapped(folder / "features.npy", values)
        vectors = rng.standard_normal((items, DIMENSION), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors = _mapped(folder / "vectors.npy", vectors)
        width = min(CLUSTER, items)
        place, neighbours = np.arange(items), np.empty((items, NEIGHBOURS), np.int32)
        for k in range(NEIGHBOURS):
            near = place // width * width + (place * 7 + 13 * (k + 1)) % width
            neighbours[self.order, k] = self.order[np.minimum(near, items - 1)]
        self.neighbours = _mapped(folder / "neighbours.npy", neighbours)
        self.scores = _mapped(folder / "scores.npy", rng.random((items, NEIGHBOURS), dtype=np.float32))
        self.cast = _mapped(folder / "cast.npy", rng.integers(1, max(50, items // 20), (items, 6), dtype=np.int32))

    def request(self, seed: int, count: int) -> Asked:
        """A history, and candidates of which a third are its neighbours and half of its clusters."""
        rng = np.random.default_rng(seed)
        width = min(CLUSTER, self.items)
        clusters = rng.integers(0, max(1, self.items // width), 4)

        def of_clusters(n: int) -> np.ndarray:
            rows: np.ndarray = self.order[clusters[rng.integers(0, 4, n)] * width + rng.integers(0, width, n)]
            return rows

        history = of_clusters(HISTORY)
        near = self.neighbours[rng.choice(history, count // 15)].ravel()[: count // 3]
        anywhere = rng.integers(0, self.items, count, dtype=np.int32)
        pool = np.concatenate([near, of_clusters(count), anywhere])
        _, place = np.unique(pool, return_index=True)
        return Asked(history, pool[np.sort(place)][:count].copy())


def measure(world: World, folder: Path, count: int, requests: int) -> list[Row]:
    """Each part's time over `requests` requests of `count` candidates."""
    assembler = Assembler(FEATURE_SET)
    affinity = Affinity(world.neighbours, world.scores, world.cast)
    rng = np.random.default_rng(1)
    user = rng.random(len(FEATURE_SET.user), dtype=np.float32)
    context = assembler.context_vector(TIME_US, "tv", "DE")
    embedding = world.vectors[5]
    asked = [world.request(seed, count) for seed in range(requests)]
    candidates = assembler.candidates(count)
    items, pairs = len(FEATURE_SET.item), len(FEATURE_SET.pair)
    item, pair = candidates[:, :items], candidates[:, items : items + pairs]

    def assemble(one: Asked) -> np.ndarray:
        out = assembler.candidates(len(one.candidates))
        assembler.fill_candidates(out, user, context, world.features, one.candidates)
        vectors = world.vectors.take(one.candidates, axis=0, mode="clip")
        affinity.features(embedding, vectors, one.history, one.candidates, assembler.affinity_of(out))
        return out

    filled = assemble(asked[0]).copy()
    request = np.concatenate((user, context))[None]
    full = assembler.join(request[0], filled)
    split_model, whole_model = _sessions(folder, full)
    inputs = {REQUEST: request, CANDIDATE: filled}

    def in_time(_: Asked) -> None:
        STAGE_DEADLINE_S.set(time.monotonic() + 60)
        run_model(split_model, inputs)

    def ranked(one: Asked) -> np.ndarray:
        shared = np.concatenate((user, context))[None]
        return run_model(split_model, {REQUEST: shared, CANDIDATE: assemble(one)})

    parts: dict[str, Callable[[Asked], object]] = {
        "context vector": lambda _: assembler.context_vector(TIME_US, "tv", "DE"),
        "item rows, gathered and filled": lambda one: assembler.fill_items(item, world.features, one.candidates),
        "pair features": lambda _: pair_features(FEATURE_SET, user[None], item, context[None], pair),
        "item vectors, gathered": lambda one: world.vectors.take(one.candidates, axis=0, mode="clip"),
        "similarity": lambda _: similarity(embedding, world.vectors[:count]),
        "co-watch and cast": lambda one: affinity.features(None, world.vectors, one.history, one.candidates),
        ASSEMBLY: assemble,
        MODEL: lambda _: split_model.run(None, inputs),
        "ONNX, split inputs, with a deadline": in_time,
        "ONNX, one input": lambda _: whole_model.run(None, {FEATURES: full}),
        "features and ONNX": ranked,
    }
    times = {name: _times(part, asked) for name, part in parts.items()}
    floor = float(np.median(times[MODEL]))
    return [_row(name, values, floor) for name, values in times.items()]


def main(arguments: Sequence[str]) -> int:
    """Prints the table and writes it to `build/reports/hot_path.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(World(Path(folder), options.items), Path(folder), options.candidates, options.requests)
    print(f"{'part':38}{'p50 us':>10}{'p10 us':>10}{'of ONNX':>10}")
    for row in rows:
        print(f"{row['name']:38}{row['value']:10.1f}{row['fastest_tenth']:10.1f}{row['of_floor']:10.2f}")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_json(REPORT, rows)
    return 0


def _times(part: Callable[[Asked], object], asked: Sequence[Asked]) -> np.ndarray:
    times = []
    for one in asked:
        started = time.perf_counter_ns()
        part(one)
        times.append(time.perf_counter_ns() - started)
    return np.array(times) / 1e3


def _row(name: str, times_us: np.ndarray, floor_us: float) -> Row:
    median = float(np.median(times_us))
    target = TARGET_US if name == ASSEMBLY else None
    how = f"median of {len(times_us)} requests, one thread, onnxruntime {onnxruntime.__version__}"
    return {
        "name": name, "value": median, "unit": "us", "target": target, "met": target is None or median <= target,
        "how": how, "fastest_tenth": float(np.percentile(times_us, 10)), "of_floor": median / floor_us,
    }  # fmt: skip


def _sessions(folder: Path, sample: np.ndarray) -> tuple[Any, Any]:
    """A ranker of the training's default shape, as one model with split inputs and as one with a single input."""
    torch.manual_seed(0)
    model = NeuralRanker(sample.shape[1], (128, 64), 0.1)
    model.standardise.fit(sample)
    manifest = FeatureManifest.of(FEATURE_SET)
    contents = export_split_ranker(model.eval(), manifest), export_neural_ranker(model, manifest.entries)
    paths = folder / "split.onnx", folder / "whole.onnx"
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return open_session(paths[0]), open_session(paths[1])


def _mapped(path: Path, array: np.ndarray) -> np.ndarray:
    np.save(path, array, allow_pickle=False)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
