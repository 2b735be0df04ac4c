from types import SimpleNamespace

import numpy as np

from serving.features.item_table import ALWAYS_US, EVERYWHERE, NEVER_US, ItemTable
from serving.features.live_items import LiveItems
from serving.features.spec import DAY_US
from serving.retrieval.fresh_sources import NewItemsSettings, NewItemsSource, TrendingSettings, TrendingSource

NAMES = ("item_plays_7d", "item_ratings_7d", "item_plays_30d", "item_ratings_30d")
NOW_US = 20_000 * DAY_US
AXES = np.eye(4, dtype=np.float32)


def table(counts=((0, 0, 0, 0),) * 4, days_old=(1, 2, 3, 4), watermark_us: int = NOW_US) -> ItemTable:
    n = len(days_old)
    return ItemTable(
        ids=np.array([f"i{row}".encode() for row in range(n)]),
        features=np.array(counts, np.float32)[np.arange(n) % len(counts)],
        feature_names=NAMES,
        maturity=np.zeros(n, np.int16),
        licence_start_us=np.full(n, NEVER_US),
        licence_end_us=np.full(n, ALWAYS_US),
        country_mask=np.full(n, EVERYWHERE),
        available_at_us=(NOW_US - np.array(days_old) * DAY_US).astype(np.int64),
        genre_mask=np.ones(n, np.uint64),
        cast=np.full((n, 6), -1, np.int32),
        year=np.zeros(n, np.int16),
        watermark_us=watermark_us,
    )


def parts(first: ItemTable) -> SimpleNamespace:
    model = SimpleNamespace(name="m", catalogue=first, item_embeddings=AXES[: len(first)], bundle=None)
    return SimpleNamespace(table=LiveItems(model))


def request(embedding=None, fetch=10, now_us=NOW_US):
    return SimpleNamespace(now_us=now_us, fetch=fetch, is_known=embedding is not None, embedding=embedding)


def trending(counts, size=10):
    source = TrendingSource(parts(table(counts)), TrendingSettings(size=size))
    return source, source.find(request())


def test_items_rise_by_how_far_their_week_stands_out_of_their_month() -> None:
    # 30 a month are 7 a week: i0 has twice that, i1 just that, i2 five times a tenth of it, i3 is unknown
    counts = [(10, 4, 20, 10), (7, 0, 30, 0), (4, 0, 4, 0), (np.nan,) * 4]
    _, found = trending(counts)
    assert found.row.tolist() == [0, 2]
    np.testing.assert_allclose(found.score, [7 / np.sqrt(8), (4 - 28 / 30) / np.sqrt(28 / 30 + 1)], rtol=1e-6)
    assert trending(counts, size=1)[1].row.tolist() == [0]
    assert len(trending([(7, 0, 30, 0)])[1]) == 0


def test_a_newer_table_brings_what_rises_now() -> None:
    held = parts(table([(0, 0, 0, 0)]))
    source = TrendingSource(held, TrendingSettings())
    assert len(source.find(request())) == 0

    held.table.replace(table([(0, 0, 0, 0), (9, 0, 9, 0)], watermark_us=NOW_US + 1))

    assert source.find(request()).row.tolist() == [1, 3]


def new_items(days_old=(5, 1, 3, 40), **settings):
    return NewItemsSource(parts(table(days_old=days_old)), NewItemsSettings(**settings))


def test_a_stranger_is_shown_the_newest_first() -> None:
    found = new_items().find(request())
    assert found.row.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.score, [29 / 30, 27 / 30, 25 / 30], rtol=1e-6)
    assert new_items().find(request(fetch=1)).row.tolist() == [1]


def test_someone_known_is_shown_the_nearest_of_the_new_first() -> None:
    near_the_first = np.array([0.9, 0.1, 0.3, 0.0], np.float32)
    found = new_items().find(request(near_the_first))
    assert found.row.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.score, [0.9, 0.3, 0.1], rtol=1e-6)


def test_new_means_the_last_days_and_not_what_is_still_to_come() -> None:
    source = new_items((-1, 0, 2.5, 3), days=3)
    assert source.find(request()).row.tolist() == [1, 2, 3]
    assert source.find(request(now_us=NOW_US + DAY_US)).row.tolist() == [0, 1]
    assert source.find(request(now_us=NOW_US + 30 * DAY_US)).row.tolist() == []


def test_only_the_newest_are_looked_at() -> None:
    assert new_items(pool=2).find(request()).row.tolist() == [1, 2]
