"""Most popular in a window, overall and by country: a baseline and the second last fallback."""

import numpy as np
from numpy.typing import NDArray

from training.config import PopularSettings
from training.models.interactions import DAY_US, Interactions


def fit_popular(
    interactions: Interactions,
    country: NDArray[np.integer],
    n_countries: int,
    now_us: int,
    settings: PopularSettings,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ranks items by their number of distinct users in the window that ends just before `now_us`.

    `country` [n_users] is each user's country, 0 to `n_countries` - 1, or -1 for any other. Returns rows
    int32[1 + n_countries, length] and scores float32 of the same shape (distinct users): segment 0 is
    everybody, segment 1 + c is country c. Ties go to the lower row. Items that nobody took in the window are
    left out, so short segments end in -1 with score 0.
    """
    first_us = np.iinfo(np.int64).min
    if settings.window_days is not None:
        first_us = now_us - settings.window_days * DAY_US
    recent = interactions.between(first_us, now_us)
    pairs = np.unique(recent.item.astype(np.int64) * interactions.n_users + recent.user)
    item, user = np.divmod(pairs, max(interactions.n_users, 1))
    rows = np.full((1 + n_countries, settings.length), -1, np.int32)
    scores = np.zeros(rows.shape, np.float32)
    pair_country = np.asarray(country)[user]
    for segment in range(1 + n_countries):
        members = item if segment == 0 else item[pair_country == segment - 1]
        counts = np.bincount(members, minlength=interactions.n_items)
        top = rank_counts(counts, settings.length)
        rows[segment, : len(top)] = top
        scores[segment, : len(top)] = counts[top]
    return rows, scores


def rank_counts(counts: NDArray[np.integer], length: int) -> NDArray[np.intp]:
    """The rows of at most `length` positive `counts` [N], highest first, ties by the lower row."""
    taken = np.flatnonzero(counts)
    return taken[np.argsort(-counts[taken], kind="stable")][:length]
