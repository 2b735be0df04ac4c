"""Time and chance: days in UTC microseconds, and one independent random stream for each purpose."""

from enum import IntEnum

import numpy as np

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US

NEVER_US = np.iinfo(np.int64).max
ALWAYS_US = np.iinfo(np.int64).min


class Stream(IntEnum):
    """What a random stream is for; adding one leaves every other stream as it was."""

    TASTES = 1
    FILMS = 2
    USERS = 3
    POLICY = 4
    SESSIONS = 5


def stream(seed: int, purpose: Stream, *key: int) -> np.random.Generator:
    """A generator that depends on the seed, the purpose and the key (day, block) alone."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, int(purpose), *key))))


def day_of(time_us: np.ndarray) -> np.ndarray:
    """Days since the epoch (UTC) of microseconds since the epoch; int64, same shape."""
    return np.asarray(time_us, dtype=np.int64) // DAY_US


def year_of(day: int) -> int:
    """The calendar year (UTC) that a day since the epoch lies in."""
    return int(np.datetime64(day, "D").astype("datetime64[Y]").astype(int)) + 1970


def is_weekend(day: np.ndarray) -> np.ndarray:
    """Whether a day since the epoch is a Saturday or Sunday (the epoch was a Thursday); bool, same shape."""
    return (np.asarray(day) + 3) % 7 >= 5
