"""A lift for what has become available lately."""

import numpy as np
from pydantic import Field

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates
from serving.core.request import Request
from serving.core.stages import Marked, Ruled, StageSettings
from serving.rules.eligibility import DAY_US
from serving.rules.order import deviation, levels

REASON = "fresh"
LASTS_HALF_LIVES = 7
"""What is left of the lift after that, under 1 %, is taken for none."""


class FreshnessRule:
    """Adds to the score of new items, in units of the standard deviation of the candidates' scores.

    The lift is strength · deviation · 2^(-age / half-life), where the age counts from the item's availability by the
    server's clock. Scores of one answer have no zero and no unit, so they are never multiplied.
    """

    class Settings(StageSettings):
        """strength: the lift of an item that is available since now, in standard deviations."""

        strength: float = Field(0.5, ge=0, le=10)
        half_life_days: float = Field(7.0, gt=0, le=3650)

    def __init__(self, parts: FilmParts, settings: Settings) -> None:
        self._table = parts.table
        self._strength = settings.strength
        self._half_life_us = settings.half_life_days * DAY_US

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Orders by the lifted scores; ties keep their order. What moved up for its lift is marked as `fresh`.

        Without a new item, or where all scores are equal, all stays as it is.
        """
        born_us = self._table().available_at_us.take(candidates.row)
        is_new = born_us > request.now_us - LASTS_HALF_LIVES * self._half_life_us
        if not is_new.any():
            return Ruled(candidates)
        values = levels(candidates.score)
        age_us = np.maximum(request.now_us - born_us[is_new].astype(np.float64), 0.0)
        values[is_new] += self._strength * deviation(values) * np.exp2(-age_us / self._half_life_us)
        order = np.argsort(-values, kind="stable")
        rose = is_new[order] & (order > np.arange(len(order)))
        lifted = candidates.scored(values.astype(np.float32))
        if not rose.any():
            return Ruled(lifted)
        kept = lifted.take(order)
        return Ruled(kept, marked=(Marked(kept.row[rose], REASON),))
