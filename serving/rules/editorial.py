"""What editors pin, boost and bury: in the candidates first, so that it passes eligibility, then in its place."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, Rows, found, no_candidates
from serving.core.request import Request
from serving.core.stages import Marked, Ruled, StageSettings
from serving.features.item_table import ItemTable
from serving.rules.editorial_file import EditorialFile, EditorialList
from serving.rules.order import Order, deviation, levels

PINNED, BOOSTED, BURIED = "pinned", "boosted", "buried"


class EditorialSettings(StageSettings):
    """file: YAML or JSON, as `serving.rules.editorial_file` says; a change is in force within seconds."""

    file: Path


class EditorialSource:
    """Finds what is pinned for the request, so that it is there to be placed if it is eligible."""

    Settings = EditorialSettings

    def __init__(self, parts: FilmParts, settings: EditorialSettings) -> None:
        """Raises: ConfigError: the file is missing or breaks the schema; every problem is listed."""
        self._entries = Entries(parts, settings.file)

    def find(self, request: Request) -> Candidates:
        """The pinned items in the order of their positions; the score is 1 / (1 + position)."""
        rows, positions = self._entries.now(request).pins
        if not len(rows):
            return no_candidates()
        order = np.argsort(positions, kind="stable")
        return found(rows[order], (1 / (1 + positions[order])).astype(np.float32))


class EditorialRule:
    """Boosts and buries by the score, then puts each pinned item in its position.

    A boost adds `strength` standard deviations of the candidates' scores, burying takes them away. What is pinned
    but is not among the candidates, because nothing found it or a rule removed it, is not placed: no editor can show
    what may not be shown.
    """

    Settings = EditorialSettings

    def __init__(self, parts: FilmParts, settings: EditorialSettings) -> None:
        """Raises: ConfigError: the file is missing or breaks the schema; every problem is listed."""
        self._entries = Entries(parts, settings.file)

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Marks are `pinned`, `boosted` and `buried`; all others keep their order, and nothing is removed.

        Of fewer candidates than a position, the last place is taken.
        """
        nudges, pins = self._entries.now(request)
        marked: tuple[Marked, ...] = ()
        if len(nudges.rows):
            candidates, marked = _nudge(candidates, nudges)
        if len(pins.rows):
            candidates, placed = _place(candidates, pins)
            marked += placed
        return Ruled(candidates, marked=marked)


class Wanted(NamedTuple):
    """Rows int32[n], each once, and for each a position or a strength, float64[n]."""

    rows: Rows
    values: npt.NDArray[np.float64]


class InForce(NamedTuple):
    """What holds for one request: strengths, below 0 to bury, and the positions of pins."""

    nudges: Wanted
    pins: Wanted


class Entries:
    """The watched file, its items in the rows of the table in force."""

    def __init__(self, parts: FilmParts, path: Path) -> None:
        """Raises: ConfigError: the file is missing or breaks the schema; every problem is listed."""
        self._table = parts.table
        self._file = EditorialFile(path)
        self._rows: tuple[EditorialList, ItemTable, Rows] | None = None

    def now(self, request: Request) -> InForce:
        """The entries that hold at the request's time, in its country, for items that the table knows.

        Positions are those of the whole list: on a later page they count from its first item, and what belongs
        before it is no pin any more.
        """
        listed, table = self._file.current(), self._table()
        known = self._rows
        if known is None or known[0] is not listed or known[1] is not table:
            known = self._rows = (listed, table, table.rows_of(listed.items))
        holds = listed.holding(request.now_us, request.query.context.country) & (known[2] >= 0)
        rows, positions = known[2], listed.value - request.offset
        pins, nudges = holds & listed.is_pin & (positions >= 0), holds & ~listed.is_pin
        return InForce(Wanted(rows[nudges], listed.value[nudges]), Wanted(rows[pins], positions[pins]))


def _nudge(candidates: Candidates, nudges: Wanted) -> tuple[Candidates, tuple[Marked, ...]]:
    places, of = _places(candidates.row, nudges.rows)
    if not len(places):
        return candidates, ()
    values = levels(candidates.score)
    strengths = nudges.values[of]
    values[places] += strengths * deviation(values)
    order = np.argsort(-values, kind="stable")
    rows = candidates.row[places]
    marked = (Marked(rows[strengths > 0], BOOSTED), Marked(rows[strengths < 0], BURIED))
    kept = candidates.scored(values.astype(np.float32)).take(order)
    return kept, tuple(mark for mark in marked if len(mark.rows))


def _place(candidates: Candidates, pins: Wanted) -> tuple[Candidates, tuple[Marked, ...]]:
    places, of = _places(candidates.row, pins.rows)
    if not len(places):
        return candidates, ()
    by_position = np.argsort(pins.values[of], kind="stable")
    places, positions = places[by_position], pins.values[of][by_position]
    count, taken = len(candidates), len(places)
    slots = np.minimum(positions.astype(np.int64), np.arange(count - taken, count))
    order: Order = np.empty(count, np.int64)
    free = np.ones(count, np.bool_)
    free[slots] = False
    others = np.ones(count, np.bool_)
    others[places] = False
    order[slots] = places
    order[free] = np.flatnonzero(others)
    return candidates.take(order), (Marked(candidates.row[places], PINNED),)


def _places(rows: Rows, wanted: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each wanted row that is there stands in `rows`, and its index in `wanted`."""
    hits = rows[:, None] == wanted
    places, of = np.nonzero(hits)
    return places, of
