"""ScaNN behind the index port, for catalogues too large to compare with one by one (Guo et al., 2020)."""

import logging
import math
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Rows, Scores
from serving.errors import BundleError
from serving.retrieval.index import AnnIndex, Embeddings, ExactIndex

MIN_ITEMS = 20_000
ASSETS = "scann_assets.pbtxt"
REORDER_FACTOR = 4
log = logging.getLogger(__name__)


class ScannIndex:
    """A loaded ScaNN searcher; each process holds its own copy of the index."""

    def __init__(self, directory: Path, items: int) -> None:
        """Loads the assets that `build_scann` wrote for `items` items.

        Raises:
            BundleError: they are missing, damaged, of another size, or hold a pickle.
        """
        from scann.scann_ops.py import scann_ops_pybind

        pickles = sorted(path.name for path in directory.glob("*.pkl"))
        if pickles:
            raise BundleError(f"the index at {directory} holds pickles", pickles)
        if not (directory / ASSETS).is_file():
            raise BundleError(f"the index at {directory} is incomplete", [f"{ASSETS} is missing"])
        try:
            self._searcher = scann_ops_pybind.load_searcher(str(directory))
        except (RuntimeError, ValueError) as error:
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
        reorder = min(self._items, n * REORDER_FACTOR)
        rows, scores = self._searcher.search(query, final_num_neighbors=n, pre_reorder_num_neighbors=reorder)
        order = np.argsort(-scores, kind="stable")
        return rows[order].astype(np.int32), scores[order].astype(np.float32)


def build_scann(embeddings: Embeddings, directory: Path) -> None:
    """Writes ScaNN's assets for float32[N, d] embeddings; no docids, so no pickle.

    About the square root of N partitions; a fifth of them is searched, and the best are scored again exactly.
    """
    from scann.scann_ops.py import scann_ops_pybind

    items = len(embeddings)
    leaves = max(1, round(math.sqrt(items)))
    builder = scann_ops_pybind.builder(np.ascontiguousarray(embeddings), 100, "dot_product")
    builder = builder.tree(
        num_leaves=leaves,
        num_leaves_to_search=max(1, leaves // 5),
        training_sample_size=min(items, 250_000),
    )
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(400)
    directory.mkdir(parents=True, exist_ok=True)
    builder.build().serialize(str(directory), relative_path=True)


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
