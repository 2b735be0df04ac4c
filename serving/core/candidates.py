"""Candidates as columns: one row per candidate, however many there are.

C candidates, F ranker features, S sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]
SourceBits = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]
FloatMatrix = npt.NDArray[np.float32]
Selection = Mask | npt.NDArray[np.signedinteger[Any]] | slice

MAX_SOURCES = 32
COLUMNS = ("row", "score", "source", "features", "source_scores", "propensity")


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is under consideration, in the order of the stage that last ordered it.

    row: int32[C], the candidate's row; each at most once after a merge.
    score: float32[C], the newest score; larger is better.
    source: uint32[C], bit i where the pipeline's source i found it; 0 before the runner has put its bit on it.
    features: float32[C, F] or None before a scorer that reads features has run.
    source_scores: float32[C, S] or None; each source's own score, NaN where it did not find the candidate.
    propensity: float32[C] or None where nothing was left to chance; the probability that the candidate stands
        where it stands, 1 where that was certain.
    """

    row: Rows
    score: Scores
    source: SourceBits
    features: FloatMatrix | None = None
    source_scores: FloatMatrix | None = None
    propensity: Scores | None = None

    def __post_init__(self) -> None:
        # written out: this runs several times in every request
        count = self.row.shape[0]
        if self.score.shape[0] != count or self.source.shape[0] != count or self._has_uneven(count):
            lengths = {name: len(column) for name in COLUMNS if (column := getattr(self, name)) is not None}
            raise ValueError(f"columns of unequal length: {lengths}")

    def _has_uneven(self, count: int) -> bool:
        features, source_scores, propensity = self.features, self.source_scores, self.propensity
        return (
            (features is not None and features.shape[0] != count)
            or (source_scores is not None and source_scores.shape[0] != count)
            or (propensity is not None and propensity.shape[0] != count)
        )

    def __len__(self) -> int:
        return len(self.row)

    def take(self, selection: Selection) -> "Candidates":
        """The chosen candidates: by a bool[C] mask, by positions int[n] in their order, or by a slice."""
        features, source_scores, propensity = self.features, self.source_scores, self.propensity
        if isinstance(selection, np.ndarray):
            if selection.dtype == np.bool_:
                selection = selection.nonzero()[0]
            return Candidates(
                self.row.take(selection),
                self.score.take(selection),
                self.source.take(selection),
                None if features is None else features.take(selection, 0),
                None if source_scores is None else source_scores.take(selection, 0),
                None if propensity is None else propensity.take(selection),
            )
        return Candidates(
            self.row[selection],
            self.score[selection],
            self.source[selection],
            None if features is None else features[selection],
            None if source_scores is None else source_scores[selection],
            None if propensity is None else propensity[selection],
        )

    def scored(self, score: Scores, features: FloatMatrix | None = None) -> "Candidates":
        """The same candidates in the same order with new scores, and features where a scorer read some."""
        return Candidates(
            self.row,
            score,
            self.source,
            self.features if features is None else features,
            self.source_scores,
            self.propensity,
        )

    def from_source(self, index: int) -> "Candidates":
        """The same candidates with the bit of the pipeline's source `index` on each."""
        source = np.full(len(self.row), 1 << index, np.uint32)
        return Candidates(self.row, self.score, source, self.features, self.source_scores, self.propensity)

    def best_first(self) -> "Candidates":
        """Ordered by falling score; ties keep the order they came in."""
        return self.take(np.argsort(-self.score, kind="stable"))


def no_candidates() -> Candidates:
    """Zero candidates."""
    return found(np.empty(0, np.int32), np.empty(0, np.float32))


def found(row: Rows, score: Scores) -> Candidates:
    """What a source found, best first; the runner puts the source's bit on it.

    row: int32[C].  score: float32[C].
    """
    return Candidates(row=row, score=score, source=np.zeros(len(row), np.uint32))


def contains(rows: Rows, wanted: Rows) -> Mask:
    """bool[C]: which of `wanted` int32[C] are in the sorted `rows`."""
    if not len(rows):
        return np.zeros(len(wanted), np.bool_)
    place = rows.searchsorted(wanted)
    inside: Mask = rows.take(place, mode="clip") == wanted
    return inside


def source_names(bits: int, names: Sequence[str]) -> list[str]:
    """The names of the sources in one candidate's bit mask; bit i belongs to `names[i]`."""
    return [name for i, name in enumerate(names) if bits >> i & 1]
