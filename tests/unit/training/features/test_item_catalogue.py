from pathlib import Path

import numpy as np
from film_log import FilmLog, at, time_us

from serving.config import FeatureSettings, SieveConfig, SqliteOnlineStore, Vocabulary
from serving.features.item_table import ALWAYS_US, EVERYWHERE, OTHER_COUNTRY, ItemTable, ItemTablePointer
from serving.features.spec import DAY_US, film_features
from training.features.attributes import name_code
from training.features.item_catalogue import ItemCatalogue, publish_item_table
from training.features.snapshots import build_snapshots

FEATURES = film_features(Vocabulary())
TTL_US = 3 * DAY_US


def film_table(log: FilmLog, root: Path, day: float) -> ItemTable:
    connection = log.connect()
    build_snapshots(connection, root, FEATURES, FeatureSettings.model_validate({}))
    return ItemCatalogue(connection, root, FEATURES).table(time_us(at(day)), TTL_US)


def film_log() -> FilmLog:
    log = FilmLog()
    log.user("ann")
    log.item("b", genres=["Drama", "Unheard-of"], countries=["GB", "NL"], cast=["A", "B", "A"], year=1999, maturity=6)
    log.item("a", licence_end=at(100), countries=[])
    log.event("ann", "b", "play", at(0, hours=2), 500.0)
    log.event("ann", "b", "click", at(4, hours=2))
    return log


def test_the_table_says_what_the_rules_need(tmp_path: Path) -> None:
    table = film_table(film_log(), tmp_path, day=2)

    assert table.ids.tolist() == [b"a", b"b"]
    assert table.maturity.tolist() == [18, 6]
    assert table.year.tolist() == [0, 1999]
    assert table.licence_end_us.tolist() == [time_us(at(100)), ALWAYS_US]
    assert table.country_mask.tolist() == [int(EVERYWHERE), 1 << 1 | 1 << OTHER_COUNTRY]
    assert table.genre_mask.tolist() == [0, 1 << Vocabulary().genres.index("Drama")]
    assert table.cast[1].tolist() == [name_code("A"), name_code("B"), -1, -1, -1, -1]
    assert table.watermark_us == time_us(at(2))


def test_features_are_those_of_the_newest_snapshot_that_may_be_read(tmp_path: Path) -> None:
    plays = FEATURES.position["item_plays_7d"]
    log = film_log()

    assert np.isnan(film_table(log, tmp_path, day=0.9).features[1, plays])
    assert film_table(log, tmp_path, day=1).features[1, plays] == 1
    stale = film_table(log, tmp_path, day=8)
    assert stale.watermark_us == 0
    assert np.isnan(stale.features).all()


def test_franchise_edition_and_provider_are_codes_of_their_names(tmp_path: Path) -> None:
    log = FilmLog()
    log.item("a", franchise="F", edition="E", provider="P")
    log.item("b", franchise="F", provider="")

    table = film_table(log, tmp_path, day=2)

    assert table.franchise.tolist() == [name_code("F"), name_code("F")]
    assert table.edition.tolist() == [name_code("E"), -1]
    assert table.provider.tolist() == [name_code("P"), -1]


def test_a_later_table_begins_with_the_rows_of_an_earlier_one(tmp_path: Path) -> None:
    log = FilmLog()
    for item, known in (("m", -9), ("z", -8), ("c", -8), ("a", 1), ("b", 3)):
        log.item(item, at(known))
    log.item("c", at(2), title="renamed")

    tables = [film_table(log, tmp_path, day=day) for day in (0.5, 1.5, 2.5, 3.5)]

    assert tables[-1].ids.tolist() == [b"m", b"c", b"z", b"a", b"b"]
    for table in tables:
        assert table.ids.tolist() == tables[-1].ids[: len(table)].tolist()


def test_an_item_of_today_is_in_the_table_without_features(tmp_path: Path) -> None:
    log = film_log()
    log.item("new", at(2, hours=3), genres=["Drama"])

    early, late = film_table(log, tmp_path, day=2), film_table(log, tmp_path, day=2.5)

    assert early.rows_of(["new"]).tolist() == [-1]
    [row] = late.rows_of(["new"])
    assert np.isnan(late.features[row]).all()
    assert not np.isnan(late.features[row - 1]).all()


def test_publishing_keeps_the_table_before_and_removes_older_ones(tmp_path: Path) -> None:
    config = SieveConfig(root=tmp_path / "var", online_store=SqliteOnlineStore(path=tmp_path / "o.db"))
    table = film_table(film_log(), tmp_path / "snapshots", day=2)

    published = [publish_item_table(config, table, made_us) for made_us in (1, 2, 3)]

    assert ItemTablePointer.current(config.item_tables) == published[2]
    assert [p.exists() for p in published] == [False, True, True]
