"""The catalogue of StreamFlix: what the items table shows of films, and what it does not."""

from dataclasses import dataclass

import numpy as np

from training.simulate.casts import MOST_CAST, draw_cast, merged_cast
from training.simulate.clock import ALWAYS_US, DAY_US, NEVER_US, Stream, day_of, stream, year_of
from training.simulate.places import (
    AGE_CLASSES,
    COUNTRIES,
    LANGUAGE_SHARE,
    LANGUAGES,
    MATURITIES,
    PROVIDER_SHARE,
    PROVIDERS,
    eligibility_bit,
)
from training.simulate.settings import WorldSettings
from training.simulate.tastes import CONTEXT_SIZE, DARKNESS, FAMILY, GENRE_SHARE, GENRES, TASTE_SIZE, Tastes

MOST_GENRES = 3
SHARE_ARRIVING_LATER = 0.12
UNKNOWN_MATURITY = -1
_GENRE_PULL, _CAST_PULL, _LANGUAGE_PULL, _OWN = 0.62, 0.45, 0.2, 0.6


@dataclass(frozen=True)
class Films:
    """Columns of one row per film; row i is film `i{i+1:07d}`. -1 pads ragged columns."""

    vector: np.ndarray  # float32[N, TASTE_SIZE + CONTEXT_SIZE], hidden: taste, then length, darkness, family
    appeal: np.ndarray  # float32[N], hidden: log-odds of a click on its poster
    substance: np.ndarray  # float32[N], hidden: log-odds of being watched on; clickbait lacks it
    genres: np.ndarray  # int8[N, MOST_GENRES], the main one first
    people: int  # size of the pool that cast is drawn from
    cast: np.ndarray  # int32[N, MOST_CAST], the lead first
    year: np.ndarray  # int16[N]
    maturity: np.ndarray  # int16[N], -1 unknown
    duration_s: np.ndarray  # int32[N]
    provider: np.ndarray  # int8[N]
    language: np.ndarray  # int8[N]
    franchise: np.ndarray  # int32[N], -1: none
    leader: np.ndarray  # int32[N], row of the franchise's first film, -1 where it is itself or there is none
    part: np.ndarray  # int32[N], number in the franchise, from 1
    edition: np.ndarray  # bool[N], a near-duplicate of its leader
    countries: np.ndarray  # uint16[N], bit c = licensed in COUNTRIES[c]; 0 is everywhere
    licence_start_us: np.ndarray  # int64[N], a midnight; the least int64 where not stated
    licence_end_us: np.ndarray  # int64[N], a midnight; the greatest int64 where open
    available_us: np.ndarray  # int64[N], a midnight
    ingested_us: np.ndarray  # int64[N], days before it becomes available

    @property
    def count(self) -> int:
        """Films in the catalogue."""
        return len(self.appeal)

    def visible_from_us(self) -> np.ndarray:
        """When a film can first be watched where it is licensed: int64[N]."""
        from_us: np.ndarray = np.maximum(self.available_us, self.licence_start_us)
        return from_us

    def eligibility(self) -> np.ndarray:
        """For which countries and age classes a film is licensed, times aside: uint64[N] (places.eligibility_bit).

        An unknown maturity is for adults only.
        """
        rated = np.where(self.maturity == UNKNOWN_MATURITY, MATURITIES[-1], self.maturity)
        mask = np.zeros(self.count, dtype=np.uint64)
        for country in range(len(COUNTRIES)):
            licensed = (self.countries == 0) | ((self.countries >> np.uint16(country)) & np.uint16(1) == 1)
            for age_class in range(AGE_CLASSES):
                allowed = licensed & (rated <= MATURITIES[age_class])
                bit = np.uint64(1) << eligibility_bit(np.array(country), np.array(age_class))
                mask |= np.where(allowed, bit, np.uint64(0))
        return mask

    def licensed_at(self, time_us: int) -> np.ndarray:
        """Which films are in the catalogue and inside their licence window at a time: bool[N]."""
        licensed: np.ndarray = (self.visible_from_us() <= time_us) & (time_us < self.licence_end_us)
        return licensed


def draw_films(settings: WorldSettings, tastes: Tastes) -> Films:
    """The films of a world, in the order of their ids; new arrivals are spread over all ids."""
    rng = stream(settings.seed, Stream.FILMS)
    n = settings.items
    genres = _genres(rng, n, tastes)
    people, cast, cast_taste = draw_cast(rng, genres[:, 0], tastes)
    language = rng.choice(len(LANGUAGES), size=n, p=LANGUAGE_SHARE).astype(np.int8)
    duration_s = _durations(rng, n)
    taste = _GENRE_PULL * _genre_taste(genres, tastes) + _CAST_PULL * cast_taste
    taste += _LANGUAGE_PULL * tastes.languages[language]
    taste += _OWN * rng.standard_normal((n, TASTE_SIZE), dtype=np.float32)
    appeal, substance = _qualities(rng, n)
    available, start, end = _windows(rng, settings)
    films = Films(
        vector=np.concatenate([taste, np.zeros((n, CONTEXT_SIZE), dtype=np.float32)], axis=1, dtype=np.float32),
        appeal=appeal,
        substance=substance,
        genres=genres,
        people=people,
        cast=cast,
        year=_years(rng, available),
        maturity=_maturities(rng, genres),
        duration_s=duration_s,
        provider=rng.choice(len(PROVIDERS), size=n, p=PROVIDER_SHARE).astype(np.int8),
        language=language,
        franchise=np.full(n, -1, dtype=np.int32),
        leader=np.full(n, -1, dtype=np.int32),
        part=np.ones(n, dtype=np.int32),
        edition=np.zeros(n, dtype=bool),
        countries=_licensed_countries(rng, n),
        licence_start_us=start,
        licence_end_us=end,
        available_us=available,
        ingested_us=available - rng.integers(1, 14 * 24, size=n) * (DAY_US // 24),
    )
    _join_franchises(rng, films)
    films.vector[:, TASTE_SIZE:] = _context_axes(films)
    return films


def _genres(rng: np.random.Generator, n: int, tastes: Tastes) -> np.ndarray:
    first = rng.choice(len(GENRES), size=n, p=GENRE_SHARE).astype(np.int8)
    genres = np.full((n, MOST_GENRES), -1, dtype=np.int8)
    genres[:, 0] = first
    extra = rng.choice(MOST_GENRES, size=n, p=(0.3, 0.45, 0.25))
    cumulative = tastes.genre_pairs.cumsum(axis=1).astype(np.float32)
    for column in range(1, MOST_GENRES):
        draw = rng.random(n, dtype=np.float32)
        other = np.zeros(n, dtype=np.int8)
        for step in range(len(GENRES) - 1):
            other += draw > cumulative[first, step]
        new = (extra >= column) & ~(genres == other[:, None]).any(axis=1)
        genres[:, column] = np.where(new, other, -1)
    # The second genre may have been a repeat while the third was not: keep the padding at the end.
    swap = (genres[:, 1] < 0) & (genres[:, 2] >= 0)
    genres[swap, 1], genres[swap, 2] = genres[swap, 2], -1
    return genres


def _genre_taste(genres: np.ndarray, tastes: Tastes) -> np.ndarray:
    padded = np.vstack([tastes.genres, np.zeros((1, TASTE_SIZE), dtype=np.float32)])
    total = sum(padded[genres[:, column]] for column in range(MOST_GENRES))
    mean: np.ndarray = total / np.sqrt((genres >= 0).sum(axis=1, dtype=np.float32))[:, None]
    return mean


def _qualities(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Appeal and substance, float32[N] each: related, except that clickbait has the one for the other."""
    appeal = 1.0 * rng.standard_normal(n, dtype=np.float32)
    substance = 0.35 * appeal + 0.6 * rng.standard_normal(n, dtype=np.float32)
    clickbait = rng.random(n) < 0.06
    return (appeal + 1.2 * clickbait).astype(np.float32), (substance - 2.2 * clickbait).astype(np.float32)


def _durations(rng: np.random.Generator, n: int) -> np.ndarray:
    """Seconds, whole minutes: features around 105 minutes, and one short film in ten."""
    minutes = np.where(rng.random(n) < 0.1, rng.uniform(22, 50, size=n), rng.normal(105, 18, size=n))
    return (minutes.clip(22, 210).astype(np.int32) * 60).astype(np.int32)


def _windows(rng: np.random.Generator, settings: WorldSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Available, licence start and licence end, int64[N] each, all midnights."""
    n, days = settings.items, settings.days
    ahead = max(1, days)
    arrival = np.where(
        rng.random(n) < SHARE_ARRIVING_LATER,
        rng.integers(0, ahead, size=n),
        -(1 + 1400 * rng.beta(1.0, 1.6, size=n)).astype(np.int64),
    )
    kind = rng.random(n)
    start = np.where(kind < 0.03, rng.integers(0, ahead, size=n), arrival).clip(arrival)
    unstated = rng.random(n) < 0.4
    ending = rng.random(n)
    end = np.where(ending < 0.08, rng.integers(0, ahead, size=n), rng.integers(days, days + 400, size=n))
    end = np.maximum(end, start + 14)
    first = settings.start_us
    return (
        first + arrival * DAY_US,
        np.where(unstated & (kind >= 0.03), ALWAYS_US, first + start * DAY_US),
        np.where(ending < 0.25, first + end * DAY_US, NEVER_US),
    )


def _years(rng: np.random.Generator, available_us: np.ndarray) -> np.ndarray:
    """Release years: new arrivals are mostly fresh, the rest reaches back by decades."""
    first = year_of(int(day_of(available_us).min()))
    last = year_of(int(day_of(available_us).max()))
    starts = np.array([np.datetime64(f"{y}-01-01", "D").astype(int) for y in range(first, last + 1)])
    arrived = first - 1 + np.searchsorted(starts, day_of(available_us), side="right")
    fresh = rng.random(len(arrived)) < 0.35
    older = rng.exponential(12.0, size=len(arrived)).astype(np.int64).clip(0, 90)
    return (arrived - np.where(fresh, 0, older)).astype(np.int16)


def _maturities(rng: np.random.Generator, genres: np.ndarray) -> np.ndarray:
    padded = np.append(DARKNESS - 0.7 * FAMILY, 0.0)
    grimness = sum(padded[genres[:, column]] for column in range(MOST_GENRES)) + rng.normal(0, 0.5, size=len(genres))
    rated = MATURITIES[np.searchsorted([-0.55, -0.1, 0.35, 1.0], grimness)]
    return np.where(rng.random(len(genres)) < 0.03, UNKNOWN_MATURITY, rated).astype(np.int16)


def _licensed_countries(rng: np.random.Generator, n: int) -> np.ndarray:
    mask = np.zeros(n, dtype=np.uint16)
    for country in range(len(COUNTRIES)):
        mask |= (rng.random(n) < 0.6).astype(np.uint16) << np.uint16(country)
    mask |= np.uint16(1)
    return np.where(rng.random(n) < 0.8, 0, mask).astype(np.uint16)


def _join_franchises(rng: np.random.Generator, films: Films) -> None:
    """Makes one film in ten a sequel or another edition of a franchise's first film, and like it, in place."""
    n = films.count
    shuffled = rng.permutation(n)
    leaders, rest = shuffled[: max(1, n // 25)], shuffled[max(1, n // 25) :]
    followers = np.sort(rest[: n // 10])
    franchise = rng.integers(len(leaders), size=len(followers))
    leader = leaders[franchise]
    edition = rng.random(len(followers)) < 0.25
    order = np.argsort(franchise, kind="stable")
    _, first, members = np.unique(franchise[order], return_index=True, return_counts=True)
    part = np.empty(len(followers), dtype=np.int32)
    part[order] = np.arange(len(followers)) - np.repeat(first, members) + 2

    likeness = np.where(edition, 0.985, 0.8).astype(np.float32)[:, None]
    own = films.vector[followers]
    films.vector[followers] = likeness * films.vector[leader] + np.sqrt(1 - likeness**2) * own
    films.appeal[followers] = 0.6 * films.appeal[leader] + 0.6 * films.appeal[followers]
    films.genres[followers] = films.genres[leader]
    films.maturity[followers] = films.maturity[leader]
    films.year[followers] = np.where(edition, films.year[leader], films.year[followers])
    shared = np.where(edition, MOST_CAST, 2)[:, None] > np.arange(MOST_CAST)
    films.cast[followers] = merged_cast(films.cast[leader], films.cast[followers], shared)
    films.franchise[leaders] = np.arange(len(leaders))
    films.franchise[followers] = franchise
    films.leader[followers] = leader
    films.part[followers] = part
    films.edition[followers] = edition


def _context_axes(films: Films) -> np.ndarray:
    """Length, darkness and family of each film: float32[N, CONTEXT_SIZE]."""
    padded = np.append(np.stack([DARKNESS, FAMILY], axis=1), np.zeros((1, 2), dtype=np.float32), axis=0)
    mood = sum(padded[films.genres[:, column]] for column in range(MOST_GENRES))
    length = ((films.duration_s / 6300.0 - 1.0) * 2.0).clip(-2, 2)
    return np.concatenate([length[:, None], mood], axis=1).astype(np.float32)
