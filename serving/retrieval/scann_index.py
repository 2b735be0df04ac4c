"""ScaNN behind the index port, for catalogues too large to compare with one by one (Guo et al., 2020)."""

import json
import logging
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Rows, Scores
from serving.durable import write_json
from serving.errors import BundleError
from serving.retrieval.index import AnnIndex, Embeddings, ExactIndex

MIN_ITEMS = 20_000
ASSETS = "scann_assets.pbtxt"
SEARCH = "search.json"
REORDER_MORE = 100
"""Candidates of the coarse codes that are scored again beyond those that the effort asks for."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Effort:
    """How far a search goes: into which share of the partitions, and how many candidates it scores again for each
    that is asked for."""

    share: float
    reorder: int


WIDEST = Effort(0.2, 4)


class ScannIndex:
    """A loaded ScaNN searcher; each process holds its own copy of the index: some 90 MB for 1 M items x 64.

    Scores are inner products with the items rounded to a byte for each dimension, off by less than a hundredth.
    """

    def __init__(self, directory: Path, items: int) -> None:
        """Loads the assets that `build_scann` wrote for `items` items.

        Raises:
            BundleError: they are missing, damaged, of another size, or hold a pickle.
        """
        from scann.scann_ops.py import scann_ops_pybind

        pickles = sorted(path.name for path in directory.glob("*.pkl"))
        if pickles:
            raise BundleError(f"the index at {directory} holds pickles", pickles)
        missing = [f"{name} is missing" for name in (ASSETS, SEARCH) if not (directory / name).is_file()]
        if missing:
            raise BundleError(f"the index at {directory} is incomplete", missing)
        try:
            effort = Effort(**json.loads((directory / SEARCH).read_bytes()))
            self._leaves, self._reorder = _leaves(items, effort), effort.reorder
            self._searcher = scann_ops_pybind.load_searcher(str(directory))
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"the index at {directory} is damaged", [str(error)]) from error
        if self._searcher.size() != items:
            found = self._searcher.size()
            raise BundleError(f"the index at {directory} is of another bundle", [f"{found} of {items} items"])
        self._items = items

    def search(self, query: npt.NDArray[np.float32], n: int) -> tuple[Rows, Scores]:
        """Nearly the nearest rows; how nearly is for the recall test against the exact index to say."""
        n = min(n, self._items)
        if n <= 0:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        rows, scores = self._searcher.search(
            query,
            final_num_neighbors=n,
            pre_reorder_num_neighbors=min(self._items, n * self._reorder + REORDER_MORE),
            leaves_to_search=self._leaves,
        )
        return rows.astype(np.int32, copy=False), scores.astype(np.float32, copy=False)


def build_scann(embeddings: Embeddings, directory: Path) -> None:
    """Writes ScaNN's assets for float32[N, d] embeddings of length 1; no docids, so no pickle.

    About the square root of N partitions, searched as widely as pays until `set_effort` says otherwise. Centres have
    length 1 too: among centres of any length a query finds those of dense partitions and misses its own.
    """
    from scann.scann_ops.py import scann_ops_pybind
    from scann.scann_ops.py.scann_builder import ReorderType

    items = len(embeddings)
    builder = scann_ops_pybind.builder(np.ascontiguousarray(embeddings), 100, "dot_product")
    builder = builder.tree(
        num_leaves=_partitions(items),
        num_leaves_to_search=_leaves(items, WIDEST),
        training_sample_size=min(items, 250_000),
        spherical=True,
        quantize_centroids=True,
    )
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
    builder = builder.reorder(400, quantize=ReorderType.INT8, anisotropic_quantization_threshold=0.2)
    directory.mkdir(parents=True, exist_ok=True)
    builder.build().serialize(str(directory), relative_path=True)
    set_effort(directory, WIDEST)


def set_effort(directory: Path, effort: Effort) -> None:
    """Says in a written index how far its searches go."""
    write_json(directory / SEARCH, asdict(effort))


def _partitions(items: int) -> int:
    return max(1, round(math.sqrt(items)))


def _leaves(items: int, effort: Effort) -> int:
    return max(1, round(_partitions(items) * effort.share))


def open_index(directory: Path | None, embeddings: Embeddings) -> AnnIndex:
    """The ScaNN index in `directory` where there is one (not None) and this platform runs it, else the exact index.

    Raises:
        BundleError: there is one, and it must not be used.
    """
    if directory is None:
        return ExactIndex(embeddings)
    if sys.platform != "linux":
        log.warning("ScaNN has Linux wheels only: %s is left alone, search is exact", directory)
        return ExactIndex(embeddings)
    return ScannIndex(directory, len(embeddings))
