"""Candidates as columns: one row per candidate, however many there are.

C candidates, F ranker features, S sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is under consideration, in the order of the stage that last ordered it.

    row: int32[C], the candidate's row of the bundle; each at most once after a merge.
    score: float32[C], the newest score; larger is better.
    source: uint32[C], one bit for each source that found it.
    features: float32[C, F] or None before a scorer that reads features has run.
    source_scores: float32[C, S] or None; each source's own score, NaN where it did not find the candidate.
    """

    row: Rows
    score: Scores
    source: SourceBits
    features: FloatMatrix | None = None
    source_scores: FloatMatrix | None = None

    def __post_init__(self) -> None:
        count = len(self.row)
        for name in ("score", "source", "features", "source_scores"):
            column = getattr(self, name)
            if column is not None and len(column) != count:
                raise ValueError(f"{name} has {len(column)} rows for {count} candidates")

    def __len__(self) -> int:
        return len(self.row)

    def take(self, selection: Selection) -> "Candidates":
        """The chosen candidates: by a bool[C] mask, by positions int[n] in their order, or by a slice."""
        return Candidates(
            row=self.row[selection],
            score=self.score[selection],
            source=self.source[selection],
            features=None if self.features is None else self.features[selection],
            source_scores=None if self.source_scores is None else self.source_scores[selection],
        )

    def scored(self, score: Scores, features: FloatMatrix | None = None) -> "Candidates":
        """The same candidates in the same order with new scores, and features where a scorer read some."""
        return replace(self, score=score, features=self.features if features is None else features)

    def best_first(self) -> "Candidates":
        """Ordered by falling score; ties keep the order they came in."""
        return self.take(np.argsort(-self.score, kind="stable"))


def no_candidates() -> Candidates:
    """Zero candidates."""
    return found_by(0, np.empty(0, np.int32), np.empty(0, np.float32))


def found_by(bit: int, row: Rows, score: Scores) -> Candidates:
    """Candidates that one source found, best first.

    bit: the source's bit mask.  row: int32[C].  score: float32[C].
    """
    return Candidates(row=row, score=score, source=np.full(len(row), bit, np.uint32))


def source_names(bits: int, names: Sequence[str]) -> list[str]:
    """The names of the sources in one candidate's bit mask; bit i belongs to `names[i]`."""
    return [name for i, name in enumerate(names) if bits >> i & 1]
