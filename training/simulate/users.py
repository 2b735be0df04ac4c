"""The people of StreamFlix: what the users table shows of them, and what it does not."""

from dataclasses import dataclass

import numpy as np

from training.simulate.clock import DAY_US, SECOND_US, Stream, stream, year_of
from training.simulate.places import COUNTRIES, COUNTRY_SHARE, DEVICE_SHARE, DEVICES
from training.simulate.settings import WorldSettings
from training.simulate.tastes import TASTE_SIZE, Tastes

SHARE_JOINING_LATER = 0.2
SHARE_WITHOUT_AGE = 0.03
_COUNTRY_PULL, _AGE_PULL, _OWN = 0.45, 0.5, 0.74
_PEAK_HOURS = np.array([8.0, 13.0, 20.5, 23.0], dtype=np.float32)
_PEAK_SHARE = (0.1, 0.15, 0.55, 0.2)


@dataclass(frozen=True)
class Users:
    """Columns of one row per user; row i is user `u{i+1:07d}`."""

    taste: np.ndarray  # float32[U, TASTE_SIZE], hidden
    bias: np.ndarray  # float32[U], hidden: log-odds of clicking at all
    country: np.ndarray  # int8[U], row of places.COUNTRIES
    birth_year: np.ndarray  # int16[U], 0 is unknown to StreamFlix
    created_us: np.ndarray  # int64[U]
    ingested_us: np.ndarray  # int64[U]
    sessions_per_day: np.ndarray  # float32[U], hidden
    weekend_factor: np.ndarray  # float32[U], hidden: how much more they watch at the weekend
    peak_hour: np.ndarray  # float32[U], hidden: local hour around which most visits start
    main_device: np.ndarray  # int8[U], hidden: row of places.DEVICES


def draw_users(settings: WorldSettings, tastes: Tastes) -> Users:
    """The users of a world, in the order of their ids; those who join later are spread over all ids."""
    rng = stream(settings.seed, Stream.USERS)
    n = settings.users
    country = rng.choice(len(COUNTRIES), size=n, p=COUNTRY_SHARE).astype(np.int8)
    age = _ages(rng, n)
    taste = _COUNTRY_PULL * tastes.countries[country] + _AGE_PULL * tastes.of_age(age)
    taste += _OWN * rng.standard_normal((n, TASTE_SIZE), dtype=np.float32)
    created = _joined(rng, settings)
    birth_year = year_of(settings.start_us // DAY_US) - age
    return Users(
        taste=taste.astype(np.float32),
        bias=0.35 * rng.standard_normal(n, dtype=np.float32),
        country=country,
        birth_year=np.where(rng.random(n) < SHARE_WITHOUT_AGE, 0, birth_year).astype(np.int16),
        created_us=created,
        ingested_us=created + rng.integers(1, 30, size=n) * SECOND_US,
        sessions_per_day=_activity(rng, settings),
        weekend_factor=rng.uniform(1.0, 2.0, size=n).astype(np.float32),
        peak_hour=_PEAK_HOURS[rng.choice(len(_PEAK_HOURS), size=n, p=_PEAK_SHARE)],
        main_device=rng.choice(len(DEVICES), size=n, p=DEVICE_SHARE).astype(np.int8),
    )


def _ages(rng: np.random.Generator, n: int) -> np.ndarray:
    """Ages in years at the start, int16[n]: a young majority, some families' teenagers, a long tail."""
    return (13 + 75 * rng.beta(1.7, 3.0, size=n)).astype(np.int16)


def _activity(rng: np.random.Generator, settings: WorldSettings) -> np.ndarray:
    spread = 0.8
    factor = np.exp(spread * rng.standard_normal(settings.users, dtype=np.float32) - spread**2 / 2)
    # An everyday user visits a few times a day at most; ids have room for 36 visits of a user in a day.
    rate: np.ndarray = np.minimum(settings.sessions_per_day * factor, 8.0).astype(np.float32)
    return rate


def _joined(rng: np.random.Generator, settings: WorldSettings) -> np.ndarray:
    n = settings.users
    before = settings.start_us - rng.integers(30 * SECOND_US, 730 * DAY_US, size=n)
    during = settings.start_us + rng.integers(0, settings.days * DAY_US - 60 * SECOND_US, size=n)
    return np.where(rng.random(n) < SHARE_JOINING_LATER, during, before)
