"""Which features there are, in which order: one declaration for training, Feast and serving.

A family is a line: its name, what it says, and what stands in where it is unknown. Windowed families repeat
over `WINDOWS_DAYS`, genre and country families over the vocabulary. How a user or item statistic is computed
from events is declared beside the aggregates (`training.features.statistics`); context, pair and affinity
features are the pure functions of this package.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from serving.config import Vocabulary

WINDOWS_DAYS = (1, 7, 30, 90)
DEVICES = ("tv", "mobile", "tablet", "web")
DAYPARTS = ("night", "dawn", "morning", "afternoon", "evening", "late")  # four hours each, from 00:00 UTC
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Feature:
    """One column: its name, what it says, and the value that stands in where it is missing."""

    name: str
    description: str
    default: float


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: it is a key on the path of a request
class FeatureSet:
    """All features of an application by view; the matrix is `[user | item | context | pair | affinity]`."""

    vocabulary: Vocabulary
    user: tuple[Feature, ...]
    item: tuple[Feature, ...]
    context: tuple[Feature, ...]
    pair: tuple[Feature, ...]
    affinity: tuple[Feature, ...]

    @property
    def views(self) -> dict[str, tuple[Feature, ...]]:
        """The features of each view, in matrix order."""
        return {view: getattr(self, view) for view in VIEWS}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every feature's name in matrix order."""
        return tuple(feature.name for view in self.views.values() for feature in view)

    @cached_property
    def position(self) -> dict[str, int]:
        """A feature's column inside its own view."""
        return {f.name: i for view in self.views.values() for i, f in enumerate(view)}

    @cached_property
    def _hash(self) -> int:
        return hash((self.vocabulary, self.names))

    def __hash__(self) -> int:
        # a key of caches on the request path: hashing hundreds of features each time would cost more than they do
        return self._hash

    def columns(self, names: Sequence[str]) -> list[int]:
        """Columns of the named features inside their view.

        Raises:
            KeyError: a name that is not a feature.
        """
        return [self.position[name] for name in names]


VIEWS = ("user", "item", "context", "pair", "affinity")
REQUEST_VIEWS = ("user", "context")
"""Alike for every candidate of a request."""
CANDIDATE_VIEWS = ("item", "pair", "affinity")
"""A row for each candidate."""

# (name, description, default); "{w}" is the window in days
_USER_WINDOWED = (
    ("impressions", "items shown to the user in the last {w} days", 0.0),
    ("clicks", "item pages opened in the last {w} days", 0.0),
    ("plays", "plays started in the last {w} days", 0.0),
    ("long_plays", "plays of 8 minutes or more in the last {w} days", 0.0),
    ("completions", "films watched to 70 % or more in the last {w} days", 0.0),
    ("ratings", "ratings given in the last {w} days", 0.0),
    ("list_adds", "films put on the watch list in the last {w} days", 0.0),
    ("sessions", "sessions begun in the last {w} days", 0.0),
    ("active_days", "days with any activity in the last {w} days", 0.0),
    ("watch_hours", "hours watched in the last {w} days", 0.0),
    ("ctr", "clicks per impression in the last {w} days", 0.05),
    ("completion_rate", "completions per play in the last {w} days", 0.4),
    ("mean_rating", "mean of the ratings given in the last {w} days", 3.5),
)
_USER_SINGLE = (
    ("total_interactions", "plays and ratings ever", 0.0),
    ("total_completions", "films watched to 70 % or more, ever", 0.0),
    ("total_mean_rating", "mean of all ratings given", 3.5),
    ("hours_since_interaction", "hours from the last play or rating to the snapshot", 2160.0),
    ("hours_since_activity", "hours from the last impression or event to the snapshot", 2160.0),
    ("account_age_days", "days from the account's creation to the snapshot", 0.0),
    ("age", "age in years, by year of birth", 35.0),
    ("age_known", "1 where the year of birth is known", 0.0),
    ("weekend_share", "share of plays and ratings on Saturday and Sunday in the last 90 days", 0.29),
    ("mean_position", "mean position of what was shown in the last 90 days: how far down the user looks", 10.0),
    ("mean_year_30d", "mean release year of films played or rated in the last 30 days", 2005.0),
    ("mean_year_90d", "mean release year of films played or rated in the last 90 days", 2005.0),
    ("mean_duration_30d", "mean running time in minutes of films played or rated in the last 30 days", 105.0),
    ("mean_duration_90d", "mean running time in minutes of films played or rated in the last 90 days", 105.0),
)
_ITEM_WINDOWED = (
    ("impressions", "times shown in the last {w} days", 0.0),
    ("clicks", "times its page was opened in the last {w} days", 0.0),
    ("plays", "plays started in the last {w} days", 0.0),
    ("long_plays", "plays of 8 minutes or more in the last {w} days", 0.0),
    ("completions", "times watched to 70 % or more in the last {w} days", 0.0),
    ("ratings", "ratings received in the last {w} days", 0.0),
    ("list_adds", "times put on a watch list in the last {w} days", 0.0),
    ("new_viewers", "users who first played or rated it in the last {w} days", 0.0),
    ("ctr", "clicks per impression in the last {w} days", 0.05),
    ("completion_rate", "completions per play in the last {w} days", 0.4),
    ("mean_rating", "mean of the ratings received in the last {w} days", 3.5),
)
_ITEM_SINGLE = (
    ("total_interactions", "plays and ratings ever", 0.0),
    ("total_viewers", "users who ever played or rated it", 0.0),
    ("total_mean_rating", "mean of all ratings received", 3.5),
    ("trend_1_7", "interactions of the last day over the mean day of the last 7, smoothed by one", 1.0),
    ("trend_7_30", "interactions a day in the last 7 days over those in the last 30, smoothed by one", 1.0),
    ("popularity_7d", "share of the catalogue with fewer plays and ratings in the last 7 days", 0.0),
    ("popularity_30d", "share of the catalogue with fewer plays and ratings in the last 30 days", 0.0),
    ("mean_position_7d", "mean position at which it was shown in the last 7 days (0 is the top)", 10.0),
    ("mean_position_30d", "mean position at which it was shown in the last 30 days (0 is the top)", 10.0),
    ("hours_since_interaction", "hours from its last play or rating to the snapshot", 2160.0),
    ("weekend_share", "share of its plays and ratings on Saturday and Sunday in the last 90 days", 0.29),
    ("days_available", "days since it entered the catalogue", 0.0),
    ("licence_days_left", "days until its licence ends; 3,650 where it is open-ended", 3650.0),
    ("year", "release year", 2005.0),
    ("duration_min", "running time in minutes", 105.0),
    ("maturity", "youngest age that may see it; 18 where unknown", 18.0),
    ("genre_count", "how many genres it has", 0.0),
    ("cast_size", "how many of its cast are known", 0.0),
    ("cast_popularity", "plays and ratings of its cast members' films in the last 30 days, mean over its cast", 0.0),
)
_CONTEXT = (
    ("hour_sin", "sine of the time of day (UTC)", 0.0),
    ("hour_cos", "cosine of the time of day (UTC)", 1.0),
    ("weekday_sin", "sine of the day of the week", 0.0),
    ("weekday_cos", "cosine of the day of the week", 1.0),
    ("weekend", "1 on Saturday and Sunday (UTC)", 0.0),
)
_PAIR = (
    *((f"genre_match_{w}d", f"user's {w}-day shares of the item's genres, summed", 0.0) for w in WINDOWS_DAYS),
    ("genre_new", "share of the item's genres that the user has not met in 90 days", 0.0),
    ("year_distance", "years between the item's release and the mean of the user's last 90 days", 0.0),
    ("year_offset", "the item's release year less the user's 30-day mean", 0.0),
    ("duration_distance", "minutes between the item's running time and the mean of the user's 90 days", 0.0),
    ("age_margin", "the user's age less the item's maturity", 0.0),
    ("user_daypart", "share of the user's plays and ratings in the request's part of the day", 0.0),
    ("item_daypart", "share of the item's plays and ratings in the request's part of the day", 0.0),
    ("user_device", "share of the user's plays and ratings on the request's device", 0.0),
    ("weekend_match", "item's weekend share at weekends, its weekday share on weekdays", 0.0),
    ("completion_gap", "item's 30-day completion rate less the user's", 0.0),
    ("rating_gap", "item's all-time mean rating less the user's", 0.0),
    ("popularity_activity", "item's 7-day popularity times the user's 30-day click rate", 0.0),
)
_AFFINITY = (
    ("two_tower", "cosine of the two-tower embeddings of user and item", 0.0),
    ("cowatch_max", "highest co-watch score with a film of the user's history", 0.0),
    ("cowatch_mean", "co-watch scores with the history, summed and divided by its length", 0.0),
    ("cowatch_sum", "co-watch scores with the history, summed", 0.0),
    ("cowatch_last", "co-watch score with the very last film", 0.0),
    ("cowatch_last5", "co-watch scores with the last five films, summed", 0.0),
    ("cowatch_share", "share of the history that has the item among its neighbours", 0.0),
    ("cast_sum", "cast members shared with the films of the history, counted once per film", 0.0),
    ("cast_max", "films of the history with the cast member that is seen most", 0.0),
    ("cast_known", "cast members that the history has", 0.0),
    ("cast_last5", "cast members shared with the last five films, counted once per film", 0.0),
)


def film_features(vocabulary: Vocabulary) -> FeatureSet:
    """Every film feature for this vocabulary, in matrix order."""
    return FeatureSet(
        vocabulary=vocabulary,
        user=tuple(_user_features(vocabulary)),
        item=tuple(_item_features(vocabulary)),
        context=tuple(_context_features(vocabulary)),
        pair=tuple(Feature(f"pair_{name}", text, default) for name, text, default in _PAIR),
        affinity=tuple(Feature(f"affinity_{name}", text, default) for name, text, default in _AFFINITY),
    )


def slug(name: str) -> str:
    """A vocabulary entry as part of a feature's name."""
    return "".join(c if c.isalnum() else "_" for c in name.lower())


def _user_features(vocabulary: Vocabulary) -> Iterator[Feature]:
    yield from _windowed("user", _USER_WINDOWED)
    for w in WINDOWS_DAYS:
        for genre in vocabulary.genres:
            text = f"{genre}'s share of the genres played or rated in the last {w} days"
            yield Feature(f"user_genre_{slug(genre)}_{w}d", text, 0.0)
    yield from (Feature(f"user_{name}", text, default) for name, text, default in _USER_SINGLE)
    for part in DAYPARTS:
        yield Feature(
            f"user_daypart_{part}", f"share of plays and ratings at {part} in the last 90 days", 1 / len(DAYPARTS)
        )
    for device in DEVICES:
        yield Feature(
            f"user_device_{device}", f"share of plays and ratings on {device} in the last 90 days", 1 / len(DEVICES)
        )


def _item_features(vocabulary: Vocabulary) -> Iterator[Feature]:
    yield from _windowed("item", _ITEM_WINDOWED)
    yield from (Feature(f"item_{name}", text, default) for name, text, default in _ITEM_SINGLE)
    for part in DAYPARTS:
        yield Feature(
            f"item_daypart_{part}", f"share of plays and ratings at {part} in the last 90 days", 1 / len(DAYPARTS)
        )
    for genre in vocabulary.genres:
        yield Feature(f"item_genre_{slug(genre)}", f"1 where it is {genre}", 0.0)


def _context_features(vocabulary: Vocabulary) -> Iterator[Feature]:
    yield from (Feature(f"context_{name}", text, default) for name, text, default in _CONTEXT)
    for i, part in enumerate(DAYPARTS):
        yield Feature(f"context_daypart_{part}", f"1 from {4 * i:02}:00 to {4 * i + 4:02}:00 UTC", 0.0)
    for device in DEVICES:
        yield Feature(f"context_device_{device}", f"1 where the request comes from {device}", 0.0)
    for country in vocabulary.countries:
        yield Feature(f"context_country_{slug(country)}", f"1 where the request comes from {country}", 0.0)


def _windowed(view: str, families: Sequence[tuple[str, str, float]]) -> Iterator[Feature]:
    for name, text, default in families:
        for w in WINDOWS_DAYS:
            yield Feature(f"{view}_{name}_{w}d", text.format(w=w), default)


def _shares(prefix: str, preposition: str, parts: Sequence[str]) -> Iterator[Feature]:
    for part in parts:
        text = f"share of plays and ratings {preposition} {part} in the last 90 days"
        yield Feature(f"{prefix}_{part}", text, 1 / len(parts))
