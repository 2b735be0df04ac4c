"""How user and item statistics are made from events: integer columns summed by day, and formulas over windows.

A daily column is a SQL expression over one row of the stream of impressions and events; its sum over a day is
an integer, so that sums over windows are exact whatever order they are added in. A formula turns the sums of
one window into a feature.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.config import Vocabulary
from serving.features.spec import DAYPARTS, DEVICES, slug

LONG_PLAY_S = 480
COMPLETION_SHARE = 0.70

Sums = Mapping[str, npt.NDArray[np.int64]]
Column = npt.NDArray[np.float64]
Formula = Callable[[Sums], Column]

INTERACTIONS = ("play", "rating")
_WEEKEND = "(event_us // 86400000000 + 3) % 7 >= 5"


@dataclass(frozen=True)
class Aggregates:
    """Daily columns over one source of rows: conditions to count, (condition, integer expression) to sum, and
    the names under which the latest event time is kept."""

    counts: Mapping[str, str]
    sums: Mapping[str, tuple[str, str]]
    latest: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """The daily columns of one entity, by source (`shown`, `acted` and `met`, see `daily.create_sources`)."""

    entity: str
    sources: Mapping[str, Aggregates]
    firsts: Mapping[str, tuple[str, str]]
    """Columns that count first times: the source, and the expression that is met for the first time."""
    active_days: str | None
    """The column that counts days with any row, where there is one."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the summed columns, in order."""
        aggregated = [name for source in self.sources.values() for name in (*source.counts, *source.sums)]
        return (*aggregated, *self.firsts, *((self.active_days,) if self.active_days else ()))

    @property
    def latest(self) -> tuple[str, ...]:
        """Names of the latest times, in order."""
        return tuple(dict.fromkeys(name for source in self.sources.values() for name in source.latest))


_SHOWN = Aggregates({"impressions": "true"}, {"position": ("true", "position")}, ("last_activity_us",))
_ACTED = Aggregates(
    counts={
        "clicks": "type = 'click'",
        "completions": f"type = 'completion' AND value >= {COMPLETION_SHARE}",
        "list_adds": "type = 'list_add'",
    },
    sums={},
    latest=("last_activity_us",),
)
_MET = Aggregates(
    counts={
        "interactions": "true",
        "plays": "type = 'play'",
        "long_plays": f"type = 'play' AND value >= {LONG_PLAY_S}",
        "ratings": "type = 'rating'",
        "weekend": _WEEKEND,
        **{f"daypart_{part}": f"event_us // 14400000000 % 6 = {i}" for i, part in enumerate(DAYPARTS)},
    },
    sums={"rating_milli": ("type = 'rating'", "CAST(round(value * 1000) AS BIGINT)")},
    latest=("last_activity_us", "last_interaction_us"),
)


def user_statistics(vocabulary: Vocabulary) -> Statistics:
    """The daily columns kept per user."""
    met = Aggregates(
        counts={
            **_MET.counts,
            **{f"device_{device}": f"device = '{device}'" for device in DEVICES},
            **{f"genre_{slug(g)}": f"(genre_mask >> {i}) & 1 = 1" for i, g in enumerate(vocabulary.genres)},
            "year_known": "item_year IS NOT NULL",
            "duration_known": "item_duration_s IS NOT NULL",
        },
        sums={
            **_MET.sums,
            "watch_ms": ("type = 'play'", "CAST(round(value * 1000) AS BIGINT)"),
            "year": ("true", "item_year"),
            "duration_s": ("true", "item_duration_s"),
        },
        latest=_MET.latest,
    )
    return Statistics(
        entity="user_id",
        sources={"shown": _SHOWN, "acted": _ACTED, "met": met},
        firsts={"sessions": ("any_row", "session_id")},
        active_days="active_days",
    )


def item_statistics() -> Statistics:
    """The daily columns kept per item."""
    return Statistics(
        entity="item_id",
        sources={"shown": _SHOWN, "acted": _ACTED, "met": _MET},
        firsts={"new_viewers": ("met", "user_id")},
        active_days=None,
    )


def ratio(numerator: npt.NDArray[np.generic], denominator: npt.NDArray[np.generic]) -> Column:
    """Their quotient in float64; NaN where the denominator is zero."""
    n, d = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    quotient: Column = np.divide(n, d, out=np.full(n.shape, np.nan), where=d != 0)
    return quotient


def _count(name: str) -> Formula:
    return lambda sums: sums[name].astype(np.float64)


def _rate(numerator: str, denominator: str, scale: float = 1.0) -> Formula:
    return lambda sums: ratio(sums[numerator], sums[denominator]) * scale


_RATES = {
    "ctr": _rate("clicks", "impressions"),
    "completion_rate": _rate("completions", "plays"),
    "mean_rating": _rate("rating_milli", "ratings", 1e-3),
}
_WINDOW_COUNTS = ("impressions", "clicks", "plays", "long_plays", "completions", "ratings", "list_adds")

USER_WINDOWED: Mapping[str, Formula] = {
    **{name: _count(name) for name in (*_WINDOW_COUNTS, "sessions", "active_days")},
    "watch_hours": lambda sums: sums["watch_ms"] / 3_600_000,
    **_RATES,
}
ITEM_WINDOWED: Mapping[str, Formula] = {
    **{name: _count(name) for name in (*_WINDOW_COUNTS, "new_viewers")},
    **_RATES,
}
SHARES: Mapping[str, Formula] = {
    "weekend_share": _rate("weekend", "interactions"),
    **{f"daypart_{part}": _rate(f"daypart_{part}", "interactions") for part in DAYPARTS},
}
MEAN_YEAR = _rate("year", "year_known")
MEAN_DURATION_MIN = _rate("duration_s", "duration_known", 1 / 60)
MEAN_POSITION = _rate("position", "impressions")
