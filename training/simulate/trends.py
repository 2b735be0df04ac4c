"""How a film's pull changes from day to day: novelty, slow fashions and sudden bursts, in closed form.

Nothing here depends on what anybody clicked, so the truth about any day is known without replaying the days
before it.
"""

from dataclasses import dataclass

import numpy as np

from training.simulate.clock import DAY_US, Stream, stream
from training.simulate.films import Films
from training.simulate.settings import WorldSettings

BASE_LOGIT = -3.7
"""Log-odds of a click on an examined film that is average in everything."""


@dataclass(frozen=True)
class Trends:
    """One row per film; days count from the epoch."""

    arrival_day: np.ndarray  # float32[N]
    swing: np.ndarray  # float32[N], amplitude of the fashion
    period_days: np.ndarray  # float32[N]
    phase: np.ndarray  # float32[N]
    burst: np.ndarray  # float32[N], height of its burst, 0 for most films
    burst_day: np.ndarray  # float32[N]
    burst_days: np.ndarray  # float32[N], time in which a burst falls to 1/e


def draw_trends(settings: WorldSettings, films: Films) -> Trends:
    """The trends of a world's films."""
    rng = stream(settings.seed, Stream.FILMS, 1)
    n = films.count
    first_day = settings.start_us // DAY_US
    uniform = [rng.random(n, dtype=np.float32) for _ in range(6)]
    return Trends(
        arrival_day=(films.visible_from_us() // DAY_US).astype(np.float32),
        swing=0.5 * uniform[0],
        period_days=20 + 100 * uniform[1],
        phase=np.float32(2 * np.pi) * uniform[2],
        burst=np.where(uniform[3] < 0.2, 0.6 + 1.2 * uniform[4], 0).astype(np.float32),
        burst_day=(first_day + settings.days * uniform[5]).astype(np.float32),
        burst_days=(2 + 6 * uniform[1]).astype(np.float32),
    )


def film_logits(films: Films, trends: Trends, day: int) -> np.ndarray:
    """Log-odds of a click on each film on a day since the epoch, for a user without tastes: float32[N].

    A film that has not arrived yet is as new as on its first day.
    """
    age = np.maximum(np.float32(day) - trends.arrival_day, 0)
    novelty = 1.0 * np.exp(-age / 12) - 0.12 * np.log1p(age / 60)
    fashion = trends.swing * np.sin(np.float32(2 * np.pi * day) / trends.period_days + trends.phase)
    since = np.float32(day) - trends.burst_day
    burst = np.where(since >= 0, trends.burst * np.exp(-np.maximum(since, 0) / trends.burst_days), 0)
    logits: np.ndarray = BASE_LOGIT + films.appeal + novelty + fashion + burst
    return logits.astype(np.float32)
