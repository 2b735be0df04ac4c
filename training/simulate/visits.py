"""When people visit: activity, time of day and week, device."""

from dataclasses import dataclass

import numpy as np

from training.simulate.choice import Visits, local_hour
from training.simulate.clock import DAY_US, HOUR_US, SECOND_US, is_weekend
from training.simulate.places import DEVICES, HOURS_FROM_UTC
from training.simulate.users import Users

MOST_VISITS_A_DAY = 36
LAST_START_US = DAY_US - 300 * SECOND_US
"""Visits start early enough that their page is seen before midnight, when licences change."""
_MAIN_DEVICE_SHARE = 0.7
_DEVICE_BY_DAYPART = np.array(  # night, morning, afternoon, evening; tv, mobile, tablet, web
    [[0.35, 0.45, 0.1, 0.1], [0.1, 0.55, 0.1, 0.25], [0.2, 0.35, 0.15, 0.3], [0.6, 0.2, 0.1, 0.1]]
)


@dataclass(frozen=True)
class DayVisits:
    """Visits of one day in order of time, and which of the user's visits that day each one is."""

    visits: Visits
    number: np.ndarray  # int8[S], 0 to MOST_VISITS_A_DAY - 1


def draw_visits(rng: np.random.Generator, users: Users, rows: range, day: int) -> DayVisits:
    """The visits on one UTC day (since the epoch) of the users in `rows`; nobody visits before joining."""
    part = slice(rows.start, rows.stop)
    weekend = bool(is_weekend(np.array(day)))
    rate = users.sessions_per_day[part] * (users.weekend_factor[part] if weekend else np.float32(0.85))
    rate = np.where(users.created_us[part] < (day + 1) * DAY_US, rate, 0)
    visits_of = np.minimum(rng.poisson(rate), MOST_VISITS_A_DAY)
    user = np.repeat(np.arange(rows.start, rows.stop, dtype=np.int32), visits_of)
    number = np.arange(len(user)) - np.repeat(np.cumsum(visits_of) - visits_of, visits_of)
    time_us = day * DAY_US + _start_us(rng, users, user, weekend)
    joined = np.flatnonzero(time_us > users.ingested_us[user])
    order = joined[np.argsort(time_us[joined], kind="stable")]
    user, time_us = user[order], time_us[order]
    country = users.country[user]
    device = _devices(rng, users, Visits(user, time_us, np.zeros(len(user), dtype=np.int8), country))
    return DayVisits(Visits(user, time_us, device, country), number[order].astype(np.int8))


def _start_us(rng: np.random.Generator, users: Users, user: np.ndarray, weekend: bool) -> np.ndarray:
    """Microseconds since UTC midnight: around the user's own hour, more loosely at the weekend."""
    spread = np.float32(3.5 if weekend else 2.2)
    local = users.peak_hour[user] + spread * rng.standard_normal(len(user), dtype=np.float32)
    utc = (local - HOURS_FROM_UTC[users.country[user]]).astype(np.float64) % 24
    jitter_us = rng.integers(0, SECOND_US, size=len(user))
    start_us: np.ndarray = np.minimum((utc * HOUR_US).astype(np.int64) + jitter_us, LAST_START_US - jitter_us)
    return start_us


def _devices(rng: np.random.Generator, users: Users, visits: Visits) -> np.ndarray:
    daypart = (local_hour(visits) // 6).astype(np.int8) % 4
    cumulative = _DEVICE_BY_DAYPART.cumsum(axis=1)
    draw = rng.random(len(daypart))
    other = (draw[:, None] > cumulative[daypart, : len(DEVICES) - 1]).sum(axis=1)
    mine = rng.random(len(daypart)) < _MAIN_DEVICE_SHARE
    device: np.ndarray = np.where(mine, users.main_device[visits.user], other)
    return device.astype(np.int8)
