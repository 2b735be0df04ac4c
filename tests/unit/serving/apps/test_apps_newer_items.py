"""A film that came in after the bundle was trained, on its way through the whole recommender."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving_world import IDS, NOW_US, catalogue, user_state, write_bundle

from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.core.query import Query
from serving.features.item_table import NO_INDEX, ItemTable
from serving.features.user_state import UserState

FRESH = "fresh"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(write_bundle(tmp_path_factory.mktemp("store")))


def grown(**columns: int) -> ItemTable:
    """The world's catalogue with a film of 2050 at its end, open to everyone but for what `columns` say."""
    known = catalogue()
    table = known.take(np.append(np.arange(len(known)), 0))
    features = table.features.copy()
    features[-1, table.feature_names.index("item_year")] = 2050
    changed = {name: getattr(table, name).copy() for name in columns}
    for name, value in columns.items():
        changed[name][-1] = value
    names = np.array([item.encode() for item in (*IDS, FRESH)])
    return replace(table, ids=names, index=NO_INDEX, features=features, **changed)


def ask(bundle: Bundle, table: ItemTable | None, state: UserState, **query: Any) -> list[str]:
    answer = Recommender(bundle, item_table=table).recommend(Query(user_id="u1", k=12, **query), state, NOW_US)
    assert answer.served_by == "ranker"
    return [item.id for item in answer.items]


def test_it_is_ranked_by_its_own_features(bundle: Bundle) -> None:
    state = user_state(("i00",))
    assert ask(bundle, grown(), state)[0] == FRESH
    assert FRESH not in ask(bundle, None, state)


@pytest.mark.parametrize("barred", [{"maturity": 18}, {"available_at_us": NOW_US + 1}, {"licence_end_us": NOW_US}])
def test_it_is_never_shown_to_whom_it_may_not_be_shown(bundle: Bundle, barred: dict[str, int]) -> None:
    assert FRESH not in ask(bundle, grown(**barred), user_state(("i00",), age=18.0))


def test_it_can_be_excluded_and_is_not_shown_again_once_it_was_seen(bundle: Bundle) -> None:
    assert FRESH not in ask(bundle, grown(), user_state(("i00",)), exclude=[FRESH])
    assert FRESH not in ask(bundle, grown(), user_state(("i00",), seen=(FRESH,)))


def test_a_history_and_seeds_of_newer_films_are_no_harm(bundle: Bundle) -> None:
    everything = ask(bundle, grown(), user_state(("i00", FRESH)))
    assert set(everything) == set(IDS) - {"i00"}
    assert FRESH not in ask(bundle, grown(), user_state(("i00",)), seed_items=[FRESH, "i02"])
