"""The logging policy: how StreamFlix fills its home page before there is any model.

Each slot of a page is drawn from one of four pools, by chances that depend on its position: the country's
hits (top slots), what is popular in the country of late, what is popular of late in the genre of the
visitor's last film (light personalisation), and the whole catalogue alike (exploration, a share that grows
down the page). New films count as somewhat popular for some days. A film that the visitor may not see or has
watched is drawn again twice and else left out, as are repeats, so pages differ in length.

Popularity of late is decayed daily and is renewed at midnight, so a page depends on earlier days only.
"""

from dataclasses import dataclass

import numpy as np

from training.simulate.choice import Visits
from training.simulate.clock import DAY_US, Stream, stream, year_of
from training.simulate.films import Films
from training.simulate.places import COUNTRIES, age_class_of, eligibility_bit
from training.simulate.settings import WorldSettings
from training.simulate.tastes import GENRES
from training.simulate.users import Users
from training.simulate.watched import WatchedFilms

DECAY = 0.85
_HITS = 0
_POPULAR = len(COUNTRIES)
_GENRE = 2 * len(COUNTRIES)
_EXPLORE = 2 * len(COUNTRIES) + len(GENRES)
_POOLS = _EXPLORE + 1
_COUNTRY_WEIGHT = 0.4
_NEW_FILM_DAYS = 6
_REDRAWS = 2


@dataclass(frozen=True)
class Pages:
    """Films on home pages, one row per film, page by page from the top."""

    visit: np.ndarray  # int32[R], row of the visits
    item: np.ndarray  # int32[R]
    position: np.ndarray  # int32[R], 0 is the top


class HomePage:
    """The state of the logging policy: decayed clicks, what was watched, and today's pools."""

    def __init__(self, settings: WorldSettings, users: Users, films: Films, first_logits: np.ndarray) -> None:
        self._seed, self._slots = settings.seed, settings.page_length
        self._users, self._films = users, films
        self._static = films.eligibility()
        self._watched = WatchedFilms(settings.users, films.count)
        self._last_genre = np.full(settings.users, -1, dtype=np.int8)
        # The service ran before the history starts: its counts begin near what an average user clicks.
        history = np.exp(first_logits - first_logits.max())
        clicks_a_day = settings.users * settings.sessions_per_day * np.array(1.2 / (1 - DECAY))
        self._clicks = np.empty((len(COUNTRIES), films.count), dtype=np.float32)
        self._clicks[:] = history * (clicks_a_day / len(COUNTRIES) / history.sum())
        pool_size = 1 << int(np.clip(4 * films.count, 4096, 1 << 18) - 1).bit_length()
        self._pools = np.zeros((_POOLS, pool_size), dtype=np.int32)
        self._eligible = np.zeros(films.count, dtype=np.uint64)
        self._bit = np.zeros(0, dtype=np.uint64)
        self._thresholds = _source_thresholds(self._slots)

    def open_day(self, day: int) -> None:
        """Renews the pools and the eligible films for a day since the epoch."""
        rng = stream(self._seed, Stream.POLICY, day)
        live = self._films.licensed_at(day * DAY_US)
        self._eligible = np.where(live, self._static, np.uint64(0))
        age_class = age_class_of(self._users.birth_year, year_of(day))
        self._bit = eligibility_bit(self._users.country, age_class)
        self._fill_pools(rng, day, live)

    def draw_pages(self, rng: np.random.Generator, visits: Visits) -> Pages:
        """One page for each visit, without repeats, films that the visitor may not see, or watched ones."""
        shape = (len(visits.user), self._slots)
        genre = self._last_genre[visits.user]
        unknown = genre < 0
        genre[unknown] = rng.integers(len(GENRES), size=int(unknown.sum()))
        bits = rng.integers(0, 1 << 64, size=shape, dtype=np.uint64)
        pool = self._choose_pools(bits, visits.country, genre)
        mask = np.uint64(self._pools.shape[1] - 1)
        item = self._pools[pool, (bits & mask).astype(np.int32)]
        usable = self._usable(visits.user[:, None], item)
        for _ in range(_REDRAWS):
            row, slot = np.nonzero(~usable)
            again = rng.integers(self._pools.shape[1], size=len(row))
            item[row, slot] = self._pools[pool[row, slot], again]
            usable[row, slot] = self._usable(visits.user[row], item[row, slot])
        usable &= ~_repeats(item)
        position = np.cumsum(usable, axis=1, dtype=np.int32) - 1
        visit, slot = np.nonzero(usable)
        return Pages(visit.astype(np.int32), item[visit, slot], position[visit, slot])

    def observe(self, user: np.ndarray, item: np.ndarray) -> None:
        """Takes note of watched films, oldest first: int32[n] each."""
        self._watched.add(user, item)
        self._last_genre[user] = self._films.genres[item, 0]
        np.add.at(self._clicks, (self._users.country[user], item), np.float32(1))

    def close_day(self) -> None:
        """Lets the day's popularity fade."""
        self._clicks *= np.float32(DECAY)

    def _usable(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        eligible: np.ndarray = (self._eligible[item] >> self._bit[user]) & np.uint64(1) == 1
        usable: np.ndarray = eligible & ~self._watched.contains(user, item)
        return usable

    def _choose_pools(self, bits: np.ndarray, country: np.ndarray, genre: np.ndarray) -> np.ndarray:
        draw = (bits >> np.uint64(48)).astype(np.uint16)
        hits, popular, of_genre = self._thresholds
        country32, genre32 = country.astype(np.int32)[:, None], genre.astype(np.int32)[:, None]
        pool = np.where(draw < of_genre, _GENRE + genre32, np.int32(_EXPLORE))
        pool = np.where(draw < popular, _POPULAR + country32, pool)
        return np.where(draw < hits, _HITS + country32, pool)

    def _fill_pools(self, rng: np.random.Generator, day: int, live: np.ndarray) -> None:
        total = self._clicks.sum(axis=0)
        age = day - self._films.visible_from_us() // DAY_US
        floor = 0.05 + np.where(live, 3.0 * np.exp(-age.clip(0) / _NEW_FILM_DAYS), 0)
        floor = floor * max(float(total.mean()), 1e-3)
        everyone = np.where(live, total + floor, 0)
        shift = rng.random(_POOLS)
        for country in range(len(COUNTRIES)):
            near = self._clicks[country] * len(COUNTRIES)
            licensed = (self._films.countries == 0) | (self._films.countries >> np.uint16(country) & np.uint16(1) == 1)
            weight = ((1 - _COUNTRY_WEIGHT) * everyone + _COUNTRY_WEIGHT * np.where(live, near, 0)) * licensed
            self._fill(_POPULAR + country, weight, shift)
            self._fill(_HITS + country, weight * np.sqrt(weight), shift)
        for genre in range(len(GENRES)):
            self._fill(_GENRE + genre, everyone * (self._films.genres == genre).any(axis=1), shift)
        self._fill(_EXPLORE, live.astype(np.float64), shift)

    def _fill(self, pool: int, weight: np.ndarray, shift: np.ndarray) -> None:
        """Systematic sampling: each film fills the share of the pool that its weight asks for."""
        total = weight.sum()
        if total <= 0:
            return self._fill(pool, np.ones(len(weight)), shift)
        size = self._pools.shape[1]
        upto = np.floor(np.cumsum(weight, dtype=np.float64) * (size / float(total)) + shift[pool]).astype(np.int64)
        upto[-1] = size
        counts = np.diff(np.minimum(upto, size), prepend=0)
        self._pools[pool] = np.repeat(np.arange(len(weight), dtype=np.int32), counts)


def _source_thresholds(slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cumulative chances of the first three pools by slot, in 65,536ths: uint16[slots] each."""
    slot = np.arange(slots)
    explore = 0.12 + 0.35 * slot / slots
    hits = 0.35 * np.exp(-slot / 8)
    of_genre = np.full(slots, 0.3)
    popular = 1 - explore - of_genre - hits
    upto = (np.cumsum([hits, popular, of_genre], axis=0) * 65_536).clip(0, 65_535).astype(np.uint16)
    return upto[0], upto[1], upto[2]


def _repeats(item: np.ndarray) -> np.ndarray:
    """Which entries already stand further left in their row: bool, shape of `item`."""
    slots = item.shape[1]
    key = (item.astype(np.int64) << 8) | np.arange(slots)
    key.sort(axis=1)
    slot = key & 0xFF
    same = np.zeros(item.shape, dtype=bool)
    np.equal(key[:, 1:] >> 8, key[:, :-1] >> 8, out=same[:, 1:])
    repeats = np.zeros(item.shape, dtype=bool)
    row, column = np.nonzero(same)
    repeats[row, slot[row, column]] = True
    return repeats
