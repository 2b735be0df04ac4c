"""What people do with the films they saw: clicks, plays, completions, ratings, list additions.

A visitor looks the page over first, opens what appeals, samples what will not hold them, and settles on what
will: the plays of a visit follow one another, shortest first, so that a short play is always soon after its
impression.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from training.simulate import choice
from training.simulate.choice import Visits
from training.simulate.clock import HOUR_US, SECOND_US
from training.simulate.films import Films
from training.simulate.policy import Pages
from training.simulate.users import Users

LONG_PLAY_S = 480
COMPLETE_TENTHS = 7
_LIST_ADD_PER_CLICK = 0.12
_RATES, _RATES_COMPLETED = 0.05, 0.12
_LATE_SHARE = 0.004
_LATE_MIN_H, _LATE_MAX_H = 1.0, 48.0
_FIRST_LOOK_US, _SCROLL_US = 400_000, 900_000


class Kind(IntEnum):
    """Kinds of events; the second sitting of a film has kinds of its own, so that ids stay apart."""

    CLICK = 0
    PLAY = 1
    COMPLETION = 2
    RATING = 3
    LIST_ADD = 4
    SECOND_PLAY = 5
    SECOND_COMPLETION = 6


@dataclass(frozen=True)
class Outcomes:
    """Impressions, as rows of the pages that were seen, and the events that they caused, by time."""

    pages: Pages
    seen_us: np.ndarray  # int64[R], when the film came on the screen
    seen_ingested_us: np.ndarray  # int64[R]
    row: np.ndarray  # int32[E], row of the pages
    kind: np.ndarray  # int8[E], Kind
    value: np.ndarray  # float64[E], NaN where the kind has none
    time_us: np.ndarray  # int64[E]
    ingested_us: np.ndarray  # int64[E]

    def watched_rows(self) -> np.ndarray:
        """Rows of the pages whose film was opened, oldest first: int32[n]."""
        opened: np.ndarray = self.row[self.kind == Kind.CLICK]
        return opened


@dataclass(frozen=True)
class _Plays:
    row: np.ndarray
    seconds: np.ndarray
    completed: np.ndarray
    watch_logit: np.ndarray
    end_us: np.ndarray


def draw_outcomes(
    rng: np.random.Generator,
    users: Users,
    films: Films,
    film_logits: np.ndarray,
    visits: Visits,
    pages: Pages,
    barred: np.ndarray | None = None,
) -> Outcomes:
    """Scrolls, judges and watches: the outcomes of pages served in visits, all on one UTC day.

    Rows of one visit must be in order of position. `barred` bool[R] marks films that the user has watched
    before and so passes over. A film that stands on several of a user's pages is opened once, on the first.
    """
    depth = choice.draw_depths(rng, len(visits.user))
    reached = np.flatnonzero(pages.position < depth[pages.visit])
    pages = Pages(pages.visit[reached], pages.item[reached], pages.position[reached])
    logits = choice.click_logits(users, films, film_logits, visits, pages.visit, pages.item)
    probability = choice.sigmoid(logits) * _ATTENTION[pages.position]
    if barred is not None:
        probability[barred[reached]] = 0
    draw = rng.random(len(probability), dtype=np.float32)
    clicked = _first_of_each(visits.user[pages.visit], pages.item, np.flatnonzero(draw < probability))
    listed = np.flatnonzero((draw >= probability) & (draw < probability * np.float32(1 + _LIST_ADD_PER_CLICK)))
    seen_us = visits.time_us[pages.visit] + (_FIRST_LOOK_US + _SCROLL_US * pages.position.astype(np.int64))
    events = _events(rng, users, films, visits, pages, seen_us, clicked, listed)
    row, kind, value, time_us = (np.concatenate(parts) for parts in zip(*events, strict=True))
    order = np.argsort(time_us, kind="stable")
    time_us = time_us[order]
    return Outcomes(
        pages=pages,
        seen_us=seen_us,
        seen_ingested_us=seen_us + _delays_us(rng, len(seen_us)),
        row=row[order].astype(np.int32),
        kind=kind[order].astype(np.int8),
        value=value[order],
        time_us=time_us,
        ingested_us=time_us + _delays_us(rng, len(time_us)),
    )


Event = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _events(
    rng: np.random.Generator,
    users: Users,
    films: Films,
    visits: Visits,
    pages: Pages,
    seen_us: np.ndarray,
    clicked: np.ndarray,
    listed: np.ndarray,
) -> list[Event]:
    """(row, kind, value, time) of all events, kind by kind."""
    opened_us = seen_us[clicked] + rng.integers(SECOND_US, 6 * SECOND_US, size=len(clicked))
    listed_us = seen_us[listed] + rng.integers(SECOND_US, 6 * SECOND_US, size=len(listed))
    starts = rng.random(len(clicked)) < choice.PLAY_GIVEN_CLICK
    plays = _play(rng, users, films, visits, pages, clicked[starts], opened_us[starts])
    share = plays.seconds / films.duration_s[pages.item[plays.row]]
    later = _resume(rng, films, pages, plays)
    rated, stars, rated_us = _rate(rng, plays)
    nothing = np.full(len(clicked) + len(listed), np.nan)
    return [
        _event(clicked, Kind.CLICK, nothing[: len(clicked)], opened_us),
        _event(listed, Kind.LIST_ADD, nothing[len(clicked) :], listed_us),
        _event(plays.row, Kind.PLAY, plays.seconds.astype(np.float64), plays.end_us),
        _event(plays.row, Kind.COMPLETION, share, plays.end_us),
        _event(rated, Kind.RATING, stars, rated_us),
        *later,
    ]


def _event(row: np.ndarray, kind: Kind, value: np.ndarray, time_us: np.ndarray) -> Event:
    return row, np.full(len(row), kind, dtype=np.int8), value, time_us


def _play(
    rng: np.random.Generator,
    users: Users,
    films: Films,
    visits: Visits,
    pages: Pages,
    row: np.ndarray,
    opened_us: np.ndarray,
) -> _Plays:
    """First sittings: how long each lasts and when it ends, in the order in which they are watched."""
    item, visit = pages.item[row], pages.visit[row]
    watch_logit = choice.watch_logits(users, films, visits.user[visit], item)
    survives = rng.random(len(row)) < choice.survival(watch_logit)
    completes = survives & (rng.random(len(row)) < choice.completion_in_one_sitting(watch_logit))
    seconds = _seconds(rng, films.duration_s[item], survives, completes)
    order = np.lexsort((seconds, visit))
    row, visit, seconds = row[order], visit[order], seconds[order]
    ready_us = np.zeros(len(visits.user), dtype=np.int64)
    np.maximum.at(ready_us, visit, opened_us[order])
    spent_us = np.cumsum((seconds + 12) * SECOND_US)
    before_us = spent_us - (seconds + 12) * SECOND_US
    first = np.searchsorted(visit, visit, side="left")
    end_us = ready_us[visit] + spent_us - before_us[first]
    return _Plays(row, seconds, completes[order], watch_logit[order], end_us)


def _seconds(
    rng: np.random.Generator, duration_s: np.ndarray, survives: np.ndarray, completes: np.ndarray
) -> np.ndarray:
    """Whole seconds watched: int64, on the right side of 8 minutes and of 70 % of the film."""
    draw = rng.random(len(duration_s))
    duration = duration_s.astype(np.int64)
    complete_s = (duration * COMPLETE_TENTHS + 9) // 10
    short = 10 * (LONG_PLAY_S / 10) ** draw
    middle = LONG_PLAY_S + draw * (complete_s - LONG_PLAY_S)
    whole = complete_s + np.sqrt(draw) * (duration - complete_s + 1)
    return np.floor(np.where(completes, whole, np.where(survives, middle, short))).astype(np.int64)


def _resume(rng: np.random.Generator, films: Films, pages: Pages, plays: _Plays) -> list[Event]:
    """Second sittings: some who stopped midway finish the film within a day."""
    midway = (plays.seconds >= LONG_PLAY_S) & ~plays.completed
    back = np.flatnonzero(midway & (rng.random(len(midway)) < choice.FINISHES_LATER))
    duration = films.duration_s[pages.item[plays.row[back]]].astype(np.int64)
    end_share = rng.uniform(0.9, 1.0, size=len(back))
    upto = np.floor(end_share * duration).astype(np.int64)
    more = upto - plays.seconds[back]
    pause_us = rng.integers(HOUR_US, 18 * HOUR_US, size=len(back))
    end_us = plays.end_us[back] + pause_us + more * SECOND_US
    row = plays.row[back]
    return [
        _event(row, Kind.SECOND_PLAY, more.astype(np.float64), end_us),
        _event(row, Kind.SECOND_COMPLETION, upto / duration, end_us),
    ]


def _rate(rng: np.random.Generator, plays: _Plays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows rated, stars (0.5 to 5 in halves) and times: mostly by those who saw the film to its end."""
    chance = np.where(plays.completed, _RATES_COMPLETED, _RATES)
    rated = np.flatnonzero(rng.random(len(chance)) < chance)
    opinion = 2.6 + 0.9 * plays.completed[rated] + 0.6 * plays.watch_logit[rated]
    opinion = opinion + 0.6 * rng.standard_normal(len(rated))
    stars = (np.round(2 * opinion) / 2).clip(0.5, 5.0)
    return plays.row[rated], stars, plays.end_us[rated] + rng.integers(3 * SECOND_US, HOUR_US, size=len(rated))


def _first_of_each(user: np.ndarray, item: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those rows that are the first of their user and item."""
    key = user[rows].astype(np.int64) << 32 | item[rows]
    _, first = np.unique(key, return_index=True)
    return rows[np.sort(first)]


def _delays_us(rng: np.random.Generator, count: int) -> np.ndarray:
    """Time from an event to its ingestion: seconds, but hours to two days for a few: int64[count]."""
    delays = (rng.standard_exponential(count, dtype=np.float32) * np.float32(1.5e6)).astype(np.int64) + 20_000
    late = rng.integers(0, max(count, 1), size=rng.binomial(count, _LATE_SHARE))
    hours = _LATE_MIN_H * (_LATE_MAX_H / _LATE_MIN_H) ** rng.random(len(late))
    delays[late] = (hours * HOUR_US).astype(np.int64)
    return delays


_ATTENTION = choice.attention(np.arange(10_000)).astype(np.float32)
