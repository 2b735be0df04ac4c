"""The ranker's rows as Parquet shards, for training that streams them: one row of a shard is one request.

Shards hold the requests in one random order, so that reading them one after the other is a shuffled epoch.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.durable import flush
from training.models.layers import Standardise
from training.models.ranker import RankerRows, RequestBatch, gather_requests, informative_groups
from training.models.weights import load_arrays, load_module, module_arrays, save_arrays

SHARD_BYTES = 8 * 2**20
"""Small beside the object store that they pass through: several of them are in flight."""
_META, _STANDARDISE = "shards.json", "standardise.npz"


def write_shards(rows: RankerRows, folder: Path, seed: int, workers: int) -> None:
    """Writes the requests that teach an order, shuffled, and the standardisation of all rows, in bounded memory.

    As many requests as `workers` divides: the first ones come again at the end where need be. The folder appears
    whole or not at all.
    """
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(informative_groups(rows)))
    order = np.resize(order, -(-len(order) // workers) * workers)
    width = rows.features.shape[1]
    bytes_per_request = max(4 * width * len(rows.grade) // max(len(rows.group_sizes), 1), 1)
    per_shard, starts = max(SHARD_BYTES // bytes_per_request, 1), rows.group_starts
    for shard, first in enumerate(range(0, len(order), per_shard)):
        chosen = order[first : first + per_shard]
        path = draft / f"part-{shard:05d}.parquet"
        pq.write_table(_requests(rows, starts, chosen), path, compression="zstd", compression_level=1)
        flush(path)
    standardise = Standardise(width)
    standardise.fit(rows.features)
    save_arrays(draft / _STANDARDISE, module_arrays(standardise))
    (draft / _META).write_text(json.dumps({"width": width, "requests": len(order)}), encoding="utf-8")
    draft.rename(folder)


def shard_files(folder: Path) -> list[str]:
    """The shards of a folder, in order."""
    return [str(path) for path in sorted(folder.glob("part-*.parquet"))]


def read_standardise(folder: Path) -> Standardise:
    """The standardisation that `write_shards` learned; its width is the rows' number of features."""
    width = json.loads((folder / _META).read_text(encoding="utf-8"))["width"]
    standardise = Standardise(width)
    load_module(standardise, load_arrays(folder / _STANDARDISE))
    return standardise


def request_batch(table: pa.Table) -> RequestBatch:
    """The arrays of some rows of a shard."""
    grade = table["grade"].combine_chunks()
    sizes = np.diff(grade.offsets.to_numpy())
    features = np.array(table["features"].combine_chunks().flatten(), np.float32)
    return RequestBatch(
        features.reshape(int(sizes.sum()), -1), np.array(grade.flatten(), np.int64), sizes.astype(np.int64)
    )


def _requests(rows: RankerRows, starts: NDArray[np.int64], chosen: NDArray[np.integer]) -> pa.Table:
    batch = gather_requests(rows, starts, chosen)
    ends = np.concatenate([[0], np.cumsum(batch.sizes)]).astype(np.int64)
    width = batch.features.shape[1]
    features = pa.LargeListArray.from_arrays(pa.array(ends * width), pa.array(batch.features.ravel()))
    grade = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(batch.grade.astype(np.int8)))
    return pa.table({"request": chosen.astype(np.int64), "features": features, "grade": grade})
