"""The user's side of the two-tower model: a user's features and history in, a point in item space out."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.bundles.onnx_models import open_session
from serving.core.candidates import Rows
from serving.core.request import FloatVector
from serving.errors import DependencyError
from serving.ranking.onnx import run_model

POOLED_HISTORY = 50
"""Newest history items that the user tower pools; training pools as many."""


class UserTower:
    """The exported user tower.

    Du user features, d embedding length.
    """

    def __init__(self, path: Path) -> None:
        """Opens the ONNX file.

        Raises:
            BundleError: it is missing or cannot be run.
        """
        self._session = open_session(path)

    def embed(self, user: FloatVector, history: FloatVector) -> FloatVector:
        """float32[d] of length 1 for one user.

        user: float32[Du] without NaN.  history: float32[d], what `pool_history` made.

        Raises:
            DependencyError: the runtime failed, or the result is not finite.
        """
        embedding: FloatVector = run_model(self._session, {"user": user[None], "history": history[None]})[0]
        if not np.isfinite(embedding).all():
            raise DependencyError("the user tower's embedding is not finite")
        return embedding


def pool_history(embeddings: npt.NDArray[np.float32], rows: Rows) -> FloatVector:
    """float32[d]: the mean embedding of the newest 50 of a history int32[L], newest last; zeros for none.

    Items newer than the embeddings have none, and are passed over.
    """
    rows = rows[rows < len(embeddings)]
    if not len(rows):
        return np.zeros(embeddings.shape[1], np.float32)
    newest = np.asarray(embeddings[rows[-POOLED_HISTORY:]])
    pooled: FloatVector = np.mean(newest, axis=0)
    return pooled
