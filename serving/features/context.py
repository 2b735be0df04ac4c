"""Features of the moment and place of a request, from its time, device and country.

Times of day come from a table by minute, so that a value never depends on how many rows are computed at once.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.features.spec import DAYPARTS, DEVICES, FeatureSet

MINUTE_US = 60_000_000
_DAY_MINUTES = 1440
_DAYPART_MINUTES = _DAY_MINUTES // len(DAYPARTS)
_FIRST_DAYPART = 5


def _circle(steps: int) -> npt.NDArray[np.float32]:
    turns = [2 * math.pi * i / steps for i in range(steps)]
    return np.array([[math.sin(x), math.cos(x)] for x in turns], np.float32)


_CLOCK = _circle(_DAY_MINUTES)
_WEEK = _circle(7)
_DEVICE_CODES = {device: i for i, device in enumerate(DEVICES)}


def device_codes(devices: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """int64[R]: the index in `DEVICES`, -1 for any other."""
    return np.array([_DEVICE_CODES.get(d, -1) if d else -1 for d in devices], np.int64)


def country_codes(countries: Sequence[str | None], feature_set: FeatureSet) -> npt.NDArray[np.int64]:
    """int64[R]: the index in the vocabulary's countries, -1 for any other."""
    codes = {country: i for i, country in enumerate(feature_set.vocabulary.countries)}
    return np.array([codes.get(c, -1) if c else -1 for c in countries], np.int64)


def dayparts(time_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[R]: which of the six four-hour parts of the UTC day a time lies in."""
    return time_us // MINUTE_US % _DAY_MINUTES // _DAYPART_MINUTES


def weekdays(time_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[R]: the UTC day of the week, 0 is Monday."""
    return (time_us // MINUTE_US // _DAY_MINUTES + 3) % 7


def context_features(
    feature_set: FeatureSet,
    time_us: npt.NDArray[np.int64],
    device: npt.NDArray[np.int64],
    country: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """float32[R, Dc]: the context view, row by row.

    `time_us` is int64[R] in UTC microseconds; `device` and `country` are int64[R] codes of `device_codes` and
    `country_codes`, where -1 (any other) leaves its one-hot columns zero.
    """
    time_us = np.asarray(time_us, np.int64)
    weekday = weekdays(time_us)
    first_device = _FIRST_DAYPART + len(DAYPARTS)
    first_country = first_device + len(DEVICES)
    out = np.zeros((len(time_us), first_country + len(feature_set.vocabulary.countries)), np.float32)
    out[:, 0:2] = _CLOCK[time_us // MINUTE_US % _DAY_MINUTES]
    out[:, 2:4] = _WEEK[weekday]
    out[:, 4] = weekday >= 5
    _set_ones(out, _FIRST_DAYPART, dayparts(time_us))
    _set_ones(out, first_device, np.asarray(device))
    _set_ones(out, first_country, np.asarray(country))
    return out


def context_vector(
    feature_set: FeatureSet, time_us: int, device: str | None = None, country: str | None = None
) -> npt.NDArray[np.float32]:
    """float32[Dc]: the row of `context_features` for one request, without its arrays of one."""
    minute = time_us // MINUTE_US
    weekday = (minute // _DAY_MINUTES + 3) % 7
    names = feature_set.vocabulary.countries
    first_device = _FIRST_DAYPART + len(DAYPARTS)
    out = np.zeros(first_device + len(DEVICES) + len(names), np.float32)
    out[0:2] = _CLOCK[minute % _DAY_MINUTES]
    out[2:4] = _WEEK[weekday]
    out[4] = weekday >= 5
    out[_FIRST_DAYPART + minute % _DAY_MINUTES // _DAYPART_MINUTES] = 1
    if device in _DEVICE_CODES:
        out[first_device + _DEVICE_CODES[device]] = 1
    if country in names:
        out[first_device + len(DEVICES) + names.index(country)] = 1
    return out


def _set_ones(out: npt.NDArray[np.float32], first: int, codes: npt.NDArray[np.int64]) -> None:
    rows = np.flatnonzero(codes >= 0)
    out[rows, first + codes[rows]] = 1
