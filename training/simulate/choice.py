"""The choice model: the one place that says who examines, clicks, plays and finishes what, and how likely.

A film on a page is reached by scrolling, then looked at, then judged: scroll(position) x attention(position)
= examination(position), and a click on an examined film has the probability `click_probability`, whatever
else is on the page. Both the batch history and live answers draw from these functions, and the truth that
evaluations ask for is these functions.
"""

from dataclasses import dataclass

import numpy as np

from training.simulate.clock import HOUR_US, day_of, is_weekend
from training.simulate.films import Films
from training.simulate.places import COUNTRY_LANGUAGE, HOURS_FROM_UTC, LANGUAGES
from training.simulate.tastes import CONTEXT_SIZE, TASTE_SIZE
from training.simulate.users import Users

TASTE_WEIGHT = 1.0
_LENGTH_BY_DEVICE = np.array([0.25, -0.3, -0.1, 0.0], dtype=np.float32)
_DARK_SWING, _FAMILY_WEEKEND = 0.5, 0.35
_OWN_LANGUAGE, _ENGLISH = 0.45, 0.25

SURE_POSITIONS = 4
SCROLL_ON = 0.94
PLAY_GIVEN_CLICK = 0.9
FINISHES_LATER = 0.15
_SURVIVE_LOGIT, _COMPLETE_LOGIT, _WATCH_TASTE = 0.9, -0.35, 0.6


def scroll(position: np.ndarray) -> np.ndarray:
    """Probability that a visitor scrolls as far as a 0-based position: float64, same shape."""
    further = np.maximum(np.asarray(position, dtype=np.float64) - (SURE_POSITIONS - 1), 0)
    return np.asarray(SCROLL_ON**further)


def attention(position: np.ndarray) -> np.ndarray:
    """Probability that a film which came on the screen at a position is looked at: float64, same shape."""
    return np.asarray(0.3 + 0.7 * np.exp(-np.asarray(position, dtype=np.float64) / 8))


def examination(position: np.ndarray) -> np.ndarray:
    """Probability that the film at a 0-based position of a served list is examined: float64, same shape.

    The cascade-free examination hypothesis of Richardson, Dominowska and Ragno (2007).
    """
    return np.asarray(scroll(position) * attention(position))


def draw_depths(rng: np.random.Generator, count: int) -> np.ndarray:
    """Films that came on the screen in each of `count` visits: int32[count], at least `SURE_POSITIONS`."""
    return (SURE_POSITIONS - 1 + rng.geometric(1 - SCROLL_ON, size=count)).astype(np.int32)


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit)), same shape and dtype."""
    return np.asarray(1 / (1 + np.exp(-logit)))


@dataclass(frozen=True)
class Visits:
    """What a moment brings to the choice, one row per visit."""

    user: np.ndarray  # int32[S]
    time_us: np.ndarray  # int64[S]
    device: np.ndarray  # int8[S], row of places.DEVICES
    country: np.ndarray  # int8[S], row of places.COUNTRIES

    def take(self, rows: np.ndarray) -> "Visits":
        """Some of the visits, int[n] rows."""
        return Visits(self.user[rows], self.time_us[rows], self.device[rows], self.country[rows])


def local_hour(visits: Visits) -> np.ndarray:
    """Hours since local midnight where the visitor lives: float32[S], 0 to 24."""
    utc = (visits.time_us % (24 * HOUR_US) / HOUR_US).astype(np.float32)
    local: np.ndarray = (utc + HOURS_FROM_UTC[visits.country]) % 24
    return local


def visit_vectors(users: Users, visits: Visits) -> np.ndarray:
    """What each film's vector is multiplied with in a visit: float32[S, TASTE_SIZE + CONTEXT_SIZE]."""
    hour = local_hour(visits)
    weekend = is_weekend(day_of(visits.time_us))
    vectors = np.empty((len(hour), TASTE_SIZE + CONTEXT_SIZE), dtype=np.float32)
    vectors[:, :TASTE_SIZE] = users.taste[visits.user] * np.float32(TASTE_WEIGHT / np.sqrt(TASTE_SIZE))
    vectors[:, TASTE_SIZE] = _LENGTH_BY_DEVICE[visits.device]
    vectors[:, TASTE_SIZE + 1] = _DARK_SWING * np.cos((hour - 23) * np.float32(np.pi / 12))
    vectors[:, TASTE_SIZE + 2] = _FAMILY_WEEKEND * np.where(weekend, 1.0, -0.4) * np.cos((hour - 14) * (np.pi / 12))
    return vectors


def click_logits(
    users: Users, films: Films, film_logits: np.ndarray, visits: Visits, visit: np.ndarray, item: np.ndarray
) -> np.ndarray:
    """Log-odds that an examined film is clicked: float32[R] for rows (visit int[R], item int[R]).

    `film_logits` float32[N] is `trends.film_logits` of the visits' day.
    """
    vectors = visit_vectors(users, visits)
    logits: np.ndarray = np.einsum("rd,rd->r", vectors[visit], films.vector[item])
    logits += film_logits[item]
    logits += users.bias[visits.user][visit]
    logits += _LANGUAGE_BONUS[visits.country[visit], films.language[item]]
    return logits


def watch_logits(users: Users, films: Films, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """How well a film holds a user once it plays, as log-odds around 0: float32[R]."""
    liking = np.einsum("rd,rd->r", users.taste[user], films.vector[item, :TASTE_SIZE])
    logits: np.ndarray = np.float32(_WATCH_TASTE / np.sqrt(TASTE_SIZE)) * liking + films.substance[item]
    return logits


def survival(watch_logit: np.ndarray) -> np.ndarray:
    """Probability that a play lasts 8 minutes or more, same shape."""
    return sigmoid(_SURVIVE_LOGIT + watch_logit)


def completion_in_one_sitting(watch_logit: np.ndarray) -> np.ndarray:
    """Probability that a play which lasted 8 minutes reaches 70 % of the film at once, same shape."""
    return sigmoid(_COMPLETE_LOGIT + watch_logit)


def completion(watch_logit: np.ndarray) -> np.ndarray:
    """Probability that a play reaches 70 % of the film, in this sitting or the next, same shape."""
    at_once = completion_in_one_sitting(watch_logit)
    return survival(watch_logit) * (at_once + (1 - at_once) * FINISHES_LATER)


def _language_bonus() -> np.ndarray:
    bonus = np.zeros((len(COUNTRY_LANGUAGE), len(LANGUAGES)), dtype=np.float32)
    bonus[:, 0] = _ENGLISH
    bonus[np.arange(len(COUNTRY_LANGUAGE)), COUNTRY_LANGUAGE] = _OWN_LANGUAGE
    return bonus


_LANGUAGE_BONUS = _language_bonus()
