"""From candidates to an answer: ids, sources, reasons and, where asked for, the trace.

C candidates, F features, k items answered.
"""

from collections import defaultdict
from dataclasses import asdict
from typing import Any

import numpy as np

from serving.apps.film_model import FilmModel
from serving.core.answer import AnswerItem
from serving.core.candidates import Candidates, source_names
from serving.core.request import Request
from serving.core.trace import Trace
from serving.retrieval.sources import SOURCE_NAMES, ItemToItemSource, SourceBit

MAX_REMOVED_IDS = 100


class Presenter:
    """Turns rows into what a caller reads."""

    def __init__(self, model: FilmModel, item_to_item: ItemToItemSource) -> None:
        self._catalogue = model.catalogue
        self._countries = model.vocabulary.countries
        self._item_to_item = item_to_item

    def items(self, request: Request, candidates: Candidates) -> list[AnswerItem]:
        """One item per candidate, in their order."""
        ids = self._catalogue.ids_of(candidates.row)
        columns = zip(ids, candidates.row.tolist(), candidates.score.tolist(), candidates.source.tolist(), strict=True)
        return [
            AnswerItem(id_, score, source_names(bits, SOURCE_NAMES), self._reasons(request, row, bits), position)
            for position, (id_, row, score, bits) in enumerate(columns)
        ]

    def trace(
        self, request: Request, candidates: Candidates, trace: Trace, feature_names: tuple[str, ...]
    ) -> dict[str, Any]:
        """Each stage's time and counts, what was removed and why, and each answered item's numbers."""
        return {
            "stages": [asdict(stage) for stage in trace.stages],
            "removed": self._removed(trace),
            "source_scores": self._by_item(candidates, candidates.source_scores, SOURCE_NAMES),
            "features": self._by_item(candidates, candidates.features, feature_names),
            "age_known": request.age_years is not None,
            "history_length": len(request.history),
        }

    def _reasons(self, request: Request, row: int, bits: int) -> list[str]:
        reasons = []
        if bits & SourceBit.ITEM_TO_ITEM:
            cause = self._item_to_item.nearest_cause(row, request.history)
            reasons += [f"similar_to:{self._catalogue.id_of(cause)}"] * (cause >= 0)
        if bits & SourceBit.TWO_TOWER:
            reasons.append("your_taste")
        if bits & (SourceBit.POPULAR | SourceBit.BUNDLED):
            where = "" if request.segment == 0 else f":{self._countries[request.segment - 1]}"
            reasons.append(f"popular{where}")
        return reasons

    def _removed(self, trace: Trace) -> dict[str, list[str]]:
        ids: dict[str, list[str]] = defaultdict(list)
        for removed in trace.removed:
            room = MAX_REMOVED_IDS - len(ids[removed.reason])
            ids[removed.reason] += self._catalogue.ids_of(removed.rows[:room])
        return dict(ids)

    def _by_item(
        self, candidates: Candidates, values: np.ndarray | None, names: tuple[str, ...]
    ) -> dict[str, dict[str, float]]:
        if values is None:
            return {}
        ids = self._catalogue.ids_of(candidates.row)
        return {
            id_: {name: value for name, value in zip(names, row, strict=False) if value == value}
            for id_, row in zip(ids, values.tolist(), strict=True)
        }
