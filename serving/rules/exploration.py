"""The last stage: now and then one slot of the answer is filled by lot, with a propensity that is known exactly.

What it estimates. Given a request and the candidates that stand above the slot, a policy q chooses one candidate of
the pool for the slot; the pool is the candidate that stands there and those behind it, `pool` in all. The estimand is
V(q) = E[sum over i of q(i) · r(i)], where r(i) is the reward of candidate i when it is shown in that slot, below what
stands above it. With the candidate a, the reward r and the propensity e that were logged, the mean of q(a) · r / e over
requests is an unbiased estimate of it (Horvitz and Thompson, 1952), as long as the slot was seen, the reward is the
slot's own, and r(i) does not depend on what stands below the slot: the item that gives way moves down by one. It says
nothing of rewards elsewhere in the answer, nor of candidates outside the pool.

P candidates of the pool.
"""

from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, Scores
from serving.core.request import Request
from serving.core.stages import Marked, Ruled, StageSettings
from serving.rules.order import levels, standardised

REASON = "explored"


class ExplorationRule:
    """Draws the candidate of one slot from those that are left for it, on a share of the requests.

    Everything is drawn from the prediction's id and the salt, so that an answer can be replayed. The propensity of
    the candidate in the slot is the probability, over all ids, that this one stands there:
    1 - rate + rate · p for the one that would stand there anyway, rate · p for any other, where p is its
    probability in the draw. It is written on every request, whatever the lot said; in all other places it is 1.
    """

    class Settings(StageSettings):
        """Where, how often, from how many, and how the draw weighs them.

        slot: the 0-based place on the first page; editors should pin nothing there.  rate: the share of the requests.
        pool: the candidate in the slot and those behind it, so many in all.
        draw: `uniform`, or `softmax` over standardised scores divided by the temperature.
        salt: another one makes other draws of the same ids.
        """

        slot: int = Field(9, ge=0, le=999)
        rate: float = Field(0.05, ge=0, le=1)
        pool: int = Field(50, ge=1, le=10_000)
        draw: Literal["uniform", "softmax"] = "uniform"
        temperature: float = Field(1.0, ge=0.1, le=100)
        salt: str = Field("exploration", min_length=1, max_length=64, pattern=r"^[ -~]+$")

    def __init__(self, parts: FilmParts, settings: Settings) -> None:
        del parts  # the candidates say it all
        self._settings = settings
        self._key = settings.salt.encode()

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """The candidate that was drawn stands in the slot, marked as `explored`; all others keep their order.

        Where there are too few candidates to reach the slot, nothing happens and no propensity is written; nor on
        later pages, whose candidates depend on what the lot put on the first.
        """
        settings, slot = self._settings, self._settings.slot
        if len(candidates) <= slot or request.query.cursor is not None:
            return Ruled(candidates)
        whether, which = lots(request.prediction_id, self._key)
        chances = self._chances(candidates.score[slot : slot + settings.pool])
        explores = whether < settings.rate
        drawn = draw(chances, which) if explores else 0
        propensity = np.ones(len(candidates), np.float32)
        propensity[slot] = settings.rate * chances[drawn] + (0.0 if drawn else 1 - settings.rate)
        placed = candidates.take(_lifted_to(slot, slot + drawn, len(candidates))) if drawn else candidates
        marked = (Marked(placed.row[slot : slot + 1], REASON),) if explores else ()
        return Ruled(with_propensity(placed, propensity), marked=marked)

    def _chances(self, scores: Scores) -> npt.NDArray[np.float64]:
        if self._settings.draw == "uniform":
            return np.full(len(scores), 1 / len(scores))
        # the largest standardised score goes to the first place, so that the exponent never overflows
        values = standardised(levels(scores)) / self._settings.temperature
        weights = np.exp(values - values[0])
        chances: npt.NDArray[np.float64] = weights / weights.sum()
        return chances


def lots(prediction_id: str, key: bytes) -> tuple[float, float]:
    """Two independent numbers, uniform in [0, 1), that are a function of the id and the key.

    key: 1 to 64 bytes.
    """
    digest = blake2b(prediction_id.encode(), digest_size=16, key=key).digest()
    first, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
    return (first >> 11) * 2.0**-53, (second >> 11) * 2.0**-53


def draw(chances: npt.NDArray[np.float64], lot: float) -> int:
    """The place that a lot in [0, 1) falls on, where place i takes the part `chances[i]` of it."""
    place = int(np.cumsum(chances).searchsorted(lot, side="right"))
    return min(place, len(chances) - 1)  # the sum may end a rounding below 1


def with_propensity(candidates: Candidates, propensity: Scores) -> Candidates:
    """The same candidates in the same order with a propensity each."""
    return Candidates(
        candidates.row, candidates.score, candidates.source, candidates.features, candidates.source_scores, propensity
    )


def _lifted_to(slot: int, place: int, count: int) -> npt.NDArray[np.int64]:
    order = np.arange(count)
    order[slot + 1 : place + 1] = np.arange(slot, place)
    order[slot] = place
    return order
