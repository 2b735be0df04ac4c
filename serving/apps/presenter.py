"""From candidates to an answer: ids, sources, reasons and, where asked for, the trace.

C candidates, F features, k items answered, L history entries.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from serving.bundles.parts import FilmParts
from serving.core.answer import AnswerItem
from serving.core.candidates import Candidates, FloatMatrix, Rows, source_names
from serving.core.request import Request
from serving.core.trace import Trace

MAX_REMOVED_IDS = 100
CAUSED, PERSONAL = "item_to_item", "two_tower"
POPULAR = ("popular", "bundled")

Causes = Callable[[Rows, Rows], Rows]


class Presenter:
    """Turns rows into what a caller reads."""

    def __init__(self, parts: FilmParts, causes: Causes) -> None:
        """causes: for rows int32[k] and a history int32[L], the history row that brought each here, -1 for none."""
        self._table = parts.table
        self._countries = parts.vocabulary.countries
        self._causes = causes
        self._named: dict[tuple[tuple[str, ...], int], list[str]] = {}

    def items(
        self, request: Request, candidates: Candidates, sources: tuple[str, ...], trace: Trace, offset: int = 0
    ) -> list[AnswerItem]:
        """One item per candidate, in their order; `sources` are the names that the candidates' bits stand for."""
        rows = candidates.row.tolist()
        ids = self._table().ids_of(candidates.row)
        marks = _marks(trace)
        causes = self._causes_of(request, candidates, sources)
        popular = "popular" if request.segment == 0 else f"popular:{self._countries[request.segment - 1]}"
        items = []
        columns = zip(ids, rows, candidates.score.tolist(), candidates.source.tolist(), strict=True)
        for place, (id_, row, score, bits) in enumerate(columns):
            names = self._names(sources, bits)
            reasons = [_reason(name, causes.get(place), popular) for name in names]
            reasons += marks.get(row, [])
            items.append(AnswerItem(id_, score, names, [r for r in reasons if r], offset + place))
        return items

    def trace(
        self,
        request: Request,
        candidates: Candidates,
        sources: tuple[str, ...],
        trace: Trace,
        feature_names: tuple[str, ...],
    ) -> dict[str, Any]:
        """Each stage's time and counts, what was removed and why, and each answered item's numbers."""
        propensity = candidates.propensity
        return {
            "stages": [asdict(stage) for stage in trace.stages],
            "removed": self._removed(trace),
            "source_scores": self._by_item(candidates, candidates.source_scores, sources),
            "features": self._by_item(candidates, candidates.features, feature_names),
            "propensity": self._by_item(candidates, None if propensity is None else propensity[:, None], ("slot",)),
            "unscored": trace.unscored,
            "age_known": request.age_years is not None,
            "history_length": len(request.history),
        }

    def _causes_of(self, request: Request, candidates: Candidates, sources: Sequence[str]) -> dict[int, str]:
        """The id of the history item that brought a place's item here, where one did."""
        if CAUSED not in sources or not len(request.history):
            return {}
        bit = np.uint32(1 << sources.index(CAUSED))
        places = np.flatnonzero(candidates.source & bit)
        if not len(places):
            return {}
        causes = self._causes(candidates.row[places], request.history)
        known = causes >= 0
        return dict(zip(places[known].tolist(), self._table().ids_of(causes[known]), strict=True))

    def _names(self, sources: tuple[str, ...], bits: int) -> list[str]:
        # a handful of combinations among thousands of items
        key = (sources, bits)
        if key not in self._named:
            self._named[key] = source_names(bits, sources)
        return list(self._named[key])

    def _removed(self, trace: Trace) -> dict[str, list[str]]:
        ids: dict[str, list[str]] = defaultdict(list)
        for removed in trace.removed:
            room = MAX_REMOVED_IDS - len(ids[removed.reason])
            ids[removed.reason] += self._table().ids_of(removed.rows[:room])
        return dict(ids)

    def _by_item(
        self, candidates: Candidates, values: FloatMatrix | None, names: tuple[str, ...]
    ) -> dict[str, dict[str, float]]:
        if values is None:
            return {}
        ids = self._table().ids_of(candidates.row)
        return {
            id_: {name: value for name, value in zip(names, row, strict=False) if value == value}
            for id_, row in zip(ids, values.tolist(), strict=True)
        }


def _reason(source: str, cause: str | None, popular: str) -> str:
    """What a caller is told of a source that found an item; a source without a wording of its own is named."""
    if source == CAUSED:
        return "" if cause is None else f"similar_to:{cause}"
    if source == PERSONAL:
        return "your_taste"
    return popular if source in POPULAR else source


def _marks(trace: Trace) -> dict[int, list[str]]:
    marks: dict[int, list[str]] = {}
    for marked in trace.marked:
        for row in marked.rows.tolist():
            marks.setdefault(row, []).append(marked.reason)
    return marks
