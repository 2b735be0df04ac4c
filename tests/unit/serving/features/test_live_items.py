from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bundle_fixture import build_tiny_bundle

from serving.bundles.bundle import Bundle
from serving.bundles.layout import ITEM_TOWER
from serving.bundles.onnx_models import open_session, predict
from serving.bundles.parts import unmapped
from serving.config import Vocabulary
from serving.errors import BundleError
from serving.features.assembly import defaults_of, fill_missing
from serving.features.item_table import NO_INDEX, ItemTable, write_item_table
from serving.features.live_items import LiveItems
from serving.features.spec import film_features

N = 150


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(build_tiny_bundle(tmp_path_factory.mktemp("store"), N))


@pytest.fixture
def model(bundle: Bundle) -> SimpleNamespace:
    features = film_features(Vocabulary())
    return SimpleNamespace(
        name="recommend/tiny",
        bundle=bundle,
        catalogue=unmapped(bundle.catalogue),
        item_embeddings=np.asarray(bundle.item_embeddings),
        feature_set=lambda: features,
    )


def grown(table: ItemTable, *newer: str) -> ItemTable:
    """The table with items at its end that are copies of its first ones but for their ids and features."""
    rows = np.concatenate([np.arange(len(table)), np.arange(len(newer))])
    ids = [*table.ids_of(np.arange(len(table))), *newer]
    features = table.features[rows].copy()
    features[len(table) :] *= 0.5
    return replace(
        table.take(rows), index=NO_INDEX, ids=np.array([i.encode() for i in ids]), features=features, watermark_us=9
    )


def test_a_table_that_begins_with_the_bundles_rows_is_used_where_it_lies(model, tmp_path: Path) -> None:
    write_item_table(tmp_path / "live", grown(model.catalogue, "new-1", "new-2"))
    live = ItemTable.load(tmp_path / "live")

    items = LiveItems(model, live)

    assert len(items()) == N + 2
    assert items().watermark_us == 9
    assert np.shares_memory(items().features, live.features)
    assert np.shares_memory(items().index.hashes, live.index.hashes)
    assert type(items().features) is np.ndarray


def test_newer_items_have_what_the_item_tower_makes_of_their_features(model) -> None:
    live = grown(model.catalogue, "new-1", "new-2")
    items = LiveItems(model, live)
    filled, _ = fill_missing(live.features[N:], defaults_of(model.feature_set().item))
    tower = open_session(model.bundle.model_path(ITEM_TOWER))
    expected = predict(tower, {"item": filled, "id_embedding": np.zeros((2, 8), np.float32)})

    rows = items().rows_of(["new-2", "i0000003", "new-1"])

    assert rows.tolist() == [N + 1, 3, N]
    np.testing.assert_array_equal(items.vectors(rows), [expected[1], model.item_embeddings[3], expected[0]])


def test_newer_items_are_searched_exactly(model) -> None:
    items = LiveItems(model, grown(model.catalogue, *(f"new-{i}" for i in range(40))))
    query = np.random.default_rng(0).normal(size=8).astype(np.float32)
    scores = items.vectors(np.arange(N, N + 40)) @ query

    rows, found = items.tail_search(query, 10)

    assert rows.tolist() == (N + np.argsort(-scores, kind="stable")[:10]).tolist()
    np.testing.assert_allclose(found, np.sort(scores)[::-1][:10], rtol=1e-5)
    assert len(LiveItems(model).tail_search(query, 10)[0]) == 0


def test_a_table_in_another_order_is_copied_into_the_rows_in_force(model, caplog) -> None:
    live = grown(model.catalogue, "new")
    shuffled = live.take(np.random.default_rng(1).permutation(N + 1))

    items = LiveItems(model, shuffled)

    assert items().ids.tolist() == live.ids.tolist()
    np.testing.assert_array_equal(items().features, live.features)
    assert "is copied" in caplog.text


def test_an_item_keeps_its_row_when_tables_come_and_go(model) -> None:
    items = LiveItems(model, grown(model.catalogue, "x", "y"))

    items.replace(grown(model.catalogue, "y", "z"))

    assert items().rows_of(["x", "y", "z"]).tolist() == [N, N + 1, N + 2]
    assert np.isnan(items().features[N]).all()
    assert items().licence_end_us[N] == np.iinfo(np.int64).min
    assert items.vectors(np.arange(N + 3)).shape == (N + 3, 8)


def test_an_older_and_shorter_table_bars_what_it_does_not_know(model) -> None:
    items = LiveItems(model, model.catalogue.first(100))

    assert len(items()) == N
    assert (items().available_at_us[100:] == np.iinfo(np.int64).max).all()


def test_a_table_for_other_features_is_refused_and_the_one_in_force_stays(model) -> None:
    items = LiveItems(model)
    names = model.catalogue.feature_names
    other = replace(model.catalogue, feature_names=("strange", *names[1:]))

    with pytest.raises(BundleError) as caught:
        items.replace(other)

    assert len(caught.value.problems) == 2
    assert items() is model.catalogue
    with pytest.raises(BundleError, match="another order"):
        items.replace(replace(model.catalogue, feature_names=(names[1], names[0], *names[2:])))


def test_more_newer_items_than_allowed_are_cut_and_said(model, caplog) -> None:
    items = LiveItems(model, grown(model.catalogue, "a", "b", "c"), max_newer=2)

    assert len(items()) == N + 2
    assert items().rows_of(["b", "c"]).tolist() == [N + 1, -1]
    assert "train anew" in caplog.text


def test_without_models_nothing_newer_is_served(model) -> None:
    model.bundle = None

    assert len(LiveItems(model, grown(model.catalogue, "a"))()) == N


def test_what_is_derived_is_made_once_for_each_table(model) -> None:
    made = []
    items = LiveItems(model)
    count = items.derive(lambda table, vectors: made.append(len(table)) or vectors(np.arange(len(table))).shape)

    assert (count(), count(), made) == ((N, 8), (N, 8), [N])
    items.replace(grown(model.catalogue, "a"))
    assert (count(), count(), made) == ((N + 1, 8), (N + 1, 8), [N, N + 1])


def test_a_table_whose_derived_values_cannot_be_made_does_not_come_in_force(model) -> None:
    items = LiveItems(model)
    size = items.derive(lambda table, vectors: 1 // (N + 1 - len(table)))

    with pytest.raises(ZeroDivisionError):
        items.replace(grown(model.catalogue, "a"))

    assert (len(items()), size()) == (N, 1)
