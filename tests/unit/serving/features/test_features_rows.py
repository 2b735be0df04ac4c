"""Row-wise functions: a row's bits never depend on the other rows."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config import FeatureSettings, Vocabulary
from serving.features.affinity import Affinity
from serving.features.assembly import CANDIDATE_VIEWS, Assembler, defaults_of
from serving.features.context import context_features, context_vector, country_codes, device_codes
from serving.features.pair import pair_features
from serving.features.spec import DAY_US, film_features
from serving.features.user_state import UserState

FEATURES = film_features(Vocabulary())
ROWS = 37
ITEMS = 120


def random_rows(count: int, width: int, seed: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((count, width)) * 50).astype(np.float32)


USER = random_rows(ROWS, len(FEATURES.user), 1)
ITEM = random_rows(ROWS, len(FEATURES.item), 2)
ITEM[3, 5:40] = np.nan
TIMES = np.random.default_rng(3).integers(0, 2_000_000_000_000_000, ROWS)
DEVICE = np.random.default_rng(4).integers(-1, 4, ROWS)
COUNTRY = np.random.default_rng(5).integers(-1, 8, ROWS)

subsets = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=2 * ROWS).map(np.array)


def affinity_tables(seed: int = 6) -> tuple[Affinity, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    neighbours = np.stack([rng.permutation(ITEMS)[:12] for _ in range(ITEMS)]).astype(np.int32)
    neighbours[rng.random(neighbours.shape) < 0.2] = -1
    scores = rng.random(neighbours.shape).astype(np.float32)
    cast = rng.integers(-1, 30, (ITEMS + 10, 6)).astype(np.int32)
    return Affinity(neighbours, scores, cast), cast, scores


@given(subsets)
@settings(deadline=None, max_examples=60)
def test_any_choice_of_rows_gives_the_same_bits(rows: npt.NDArray[np.int64]) -> None:
    assembler = Assembler(FEATURES)
    context = context_features(FEATURES, TIMES, DEVICE, COUNTRY)
    affinity = random_rows(ROWS, len(FEATURES.affinity), 7)
    whole = assembler.matrix(USER, context, ITEM, affinity)

    part = assembler.matrix(
        USER[rows],
        context_features(FEATURES, TIMES[rows], DEVICE[rows], COUNTRY[rows]),
        ITEM[rows],
        affinity[rows],
    )

    assert part.tobytes() == whole[rows].tobytes()


@given(subsets)
@settings(deadline=None, max_examples=60)
def test_a_candidate_has_the_same_affinity_in_any_company(rows: npt.NDArray[np.int64]) -> None:
    affinity, _, _ = affinity_tables()
    history = np.array([-1, -1, 5, 17, 88, 3, 119, 60, 125], np.int32)
    candidates = np.random.default_rng(8).permutation(ITEMS + 10)[:ROWS].astype(np.int32)
    embeddings = random_rows(ROWS, 64, 9)
    user = random_rows(1, 64, 10)[0]
    whole = affinity.features(user, embeddings, history, candidates)

    part = affinity.features(user, np.asfortranarray(embeddings[rows]), history, candidates[rows])

    assert part.tobytes() == whole[rows].tobytes()
    assert np.any(whole[:, 1:])


def test_one_user_row_stands_for_every_candidate() -> None:
    context = context_features(FEATURES, TIMES, DEVICE, COUNTRY)
    item = np.nan_to_num(ITEM)

    one = pair_features(FEATURES, USER[:1], item, context[:1])
    each = pair_features(FEATURES, np.repeat(USER[:1], ROWS, 0), item, np.repeat(context[:1], ROWS, 0))

    assert one.tobytes() == each.tobytes()


@given(subsets)
@settings(deadline=None, max_examples=60)
def test_a_request_put_together_in_parts_is_its_matrix(rows: npt.NDArray[np.int64]) -> None:
    assembler, affinity = Assembler(FEATURES), random_rows(ROWS, len(FEATURES.affinity), 7)[rows]
    context = assembler.context_vector(int(TIMES[0]), "tv", "DE")
    whole = assembler.matrix(USER[0], context, ITEM[rows], affinity)

    candidates = assembler.candidates(len(rows))
    missing = assembler.fill_candidates(candidates, USER[0], context, ITEM, rows.astype(np.int32))
    assembler.affinity_of(candidates)[:] = affinity
    joined = assembler.join(np.concatenate([USER[0], context]), candidates)

    assert joined.tobytes() == whole.tobytes()
    assert missing == np.isnan(ITEM[rows]).sum()
    columns = [FEATURES.names.index(feature.name) for view in CANDIDATE_VIEWS for feature in FEATURES.views[view]]
    assert candidates.tobytes() == whole[:, columns].tobytes()


@given(
    st.integers(0, 4_000_000_000_000_000),
    st.sampled_from([None, "tv", "web", "watch"]),
    st.sampled_from([None, "DE", "XX"]),
)
def test_one_context_is_the_row_that_many_would_give(time_us: int, device: str | None, country: str | None) -> None:
    many = context_features(FEATURES, np.array([time_us]), device_codes([device]), country_codes([country], FEATURES))

    assert context_vector(FEATURES, time_us, device, country).tobytes() == many[0].tobytes()


def test_every_kind_of_nan_takes_the_default_and_other_values_keep_their_bits() -> None:
    assembler = Assembler(FEATURES)
    item = random_rows(3, len(FEATURES.item), 13)
    item[0, :3] = [np.inf, -np.inf, -0.0]
    item[1, :3] = np.array([0x7FC00000, 0xFFC00000, 0x7F800001], np.uint32).view(np.float32)
    context = assembler.context_vector(0)

    filled = assembler.matrix(USER[0], context, item, np.zeros((3, len(FEATURES.affinity)), np.float32))
    first = len(FEATURES.user)

    assert filled[0, first : first + 3].tobytes() == item[0, :3].tobytes()
    assert filled[1, first : first + 3].tolist() == assembler.item_defaults[:3].tolist()
    assert filled[2, first : first + item.shape[1]].tobytes() == item[2].tobytes()


def test_threads_that_assemble_at_once_do_not_disturb_each_other() -> None:
    assembler, (affinity, _, _) = Assembler(FEATURES), affinity_tables()
    context = assembler.context_vector(0, "tv", "DE")
    rng = np.random.default_rng(14)
    requests = [
        (rng.permutation(ITEMS)[:9].astype(np.int32), rng.permutation(ITEMS)[:30].astype(np.int32)) for _ in range(40)
    ]
    items = random_rows(ITEMS, len(FEATURES.item), 15)

    def answer(request: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]) -> bytes:
        history, rows = request
        candidates = assembler.candidates(len(rows))
        assembler.fill_candidates(candidates, USER[0], context, items, rows)
        affinity.features(None, items, history, rows, assembler.affinity_of(candidates))
        return bytes(candidates.tobytes())

    alone = [answer(request) for request in requests]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, requests * 5)) == alone * 5


def test_a_repeated_candidate_has_the_same_affinity_each_time() -> None:
    affinity, _, _ = affinity_tables()
    history, rows = np.array([5, 17, 88], np.int32), np.array([9, 30, 9, 64, 30, 9], np.int32)
    embeddings = random_rows(ITEMS + 10, 16, 16)
    single = np.unique(rows)

    repeated = affinity.features(embeddings[0], embeddings[rows], history, rows)
    once = affinity.features(embeddings[0], embeddings[single], history, single.astype(np.int32))

    assert repeated.tobytes() == once[np.searchsorted(single, rows)].tobytes()


def test_the_cast_of_newer_items_counts_and_leaves_the_others_as_they_were() -> None:
    affinity, cast, _ = affinity_tables()
    newer = np.array([[cast[5, 0], 7001, -1, -1, -1, -1], [7001, 7002, -1, -1, -1, -1]], np.int32)
    grown = affinity.extended(np.concatenate([cast, newer]))
    rows = np.arange(len(cast), dtype=np.int32)
    history = np.array([5, 60], np.int32)
    none = np.zeros((len(cast), 4), np.float32)

    before = affinity.features(None, none, history, rows)
    after = grown.features(None, none, history, rows)
    new = grown.features(None, none[:2], np.array([5, len(cast) + 1], np.int32), rows[-1] + np.array([1, 2], np.int32))

    assert after.tobytes() == before.tobytes()
    assert grown.items == len(cast) + 2
    known = [feature.name for feature in FEATURES.affinity].index("affinity_cast_known")
    assert new[:, known].tolist() == [1 + int(cast[5, 0] != -1), 2]


def test_too_many_candidates_for_one_request_are_refused() -> None:
    affinity, _, _ = affinity_tables()
    with pytest.raises(ValueError, match="40000 candidates"):
        affinity.features(None, np.zeros((40_000, 4)), np.array([1], np.int32), np.zeros(40_000, np.int32))


def test_cowatch_and_cast_of_a_small_case_worked_by_hand() -> None:
    neighbours = np.array([[1, 2], [2, -1], [0, 1], [-1, -1]], np.int32)
    scores = np.array([[0.5, 0.25], [1.0, 9.0], [0.125, 2.0], [9.0, 9.0]], np.float32)
    cast = np.array([[7, 8, -1], [8, -1, -1], [7, 8, 9], [-1, -1, -1]], np.int32)
    row = dict(
        zip(
            [f.name.removeprefix("affinity_") for f in FEATURES.affinity],
            Affinity(neighbours, scores, cast)
            .features(None, np.zeros((1, 4), np.float32), np.array([0, 1], np.int32), np.array([2], np.int32))[0]
            .tolist(),
            strict=True,
        )
    )

    assert row["two_tower"] == 0
    assert (row["cowatch_max"], row["cowatch_sum"], row["cowatch_mean"]) == (1.0, 1.25, 0.625)
    assert (row["cowatch_last"], row["cowatch_last5"], row["cowatch_share"]) == (1.0, 1.25, 1.0)
    assert (row["cast_sum"], row["cast_max"], row["cast_known"], row["cast_last5"]) == (3, 2, 2, 3)


def test_an_empty_history_leaves_only_the_similarity() -> None:
    affinity, _, _ = affinity_tables()
    user, items = np.ones(4, np.float32), np.ones((2, 4), np.float32)

    rows = affinity.features(user, items, np.full(3, -1, np.int32), np.array([0, 1], np.int32))

    assert rows[:, 0].tolist() == [4, 4]
    assert not rows[:, 1:].any()
    assert affinity.features(user, items[:0], np.array([1], np.int32), np.empty(0, np.int32)).shape == (0, 11)


def test_context_tells_time_device_and_country() -> None:
    saturday_noon = 1_767_441_600_000_000  # 2026-01-03 12:00
    values = context_features(
        FEATURES, np.array([saturday_noon]), device_codes(["tv"]), country_codes(["Atlantis"], FEATURES)
    )[0]
    row = dict(zip([f.name.removeprefix("context_") for f in FEATURES.context], values.tolist(), strict=True))

    assert (round(row["hour_sin"], 6), row["hour_cos"]) == (0, -1)
    assert (row["weekend"], row["daypart_afternoon"], row["device_tv"], row["device_web"]) == (1, 1, 1, 0)
    assert not any(value for name, value in row.items() if name.startswith("country"))


def test_missing_user_values_take_their_defaults_and_are_counted() -> None:
    assembler = Assembler(FEATURES)
    stats = np.zeros(len(FEATURES.user), np.float32)
    stats[4] = np.nan
    now_us = 20_000 * DAY_US + 7_200_000_000
    state = UserState("u", stats, 20_000 * DAY_US)

    vector, missing = assembler.user_vector(state, now_us)

    assert missing == 1
    assert vector[4] == np.float32(FEATURES.user[4].default)
    assert assembler.user_vector(None, now_us)[1] == len(FEATURES.user)


@pytest.mark.parametrize(
    ("after_midnight_us", "readable"),
    [(3_600_000_000 - 1, False), (3_600_000_000, True), (3_600_000_000 + 3 * DAY_US, False)],
)
def test_a_snapshot_is_read_from_its_lag_until_its_ttl(after_midnight_us: int, readable: bool) -> None:
    assembler = Assembler(FEATURES, FeatureSettings.model_validate({}))
    stats = np.full(len(FEATURES.user), 9, np.float32)

    vector, _ = assembler.user_vector(UserState("u", stats, 20_000 * DAY_US), 20_000 * DAY_US + after_midnight_us)

    assert vector.tolist() == (stats if readable else defaults_of(FEATURES.user)).tolist()


def test_a_stored_row_of_another_feature_set_is_refused() -> None:
    state = UserState("u", np.zeros(3, np.float32), 0)

    with pytest.raises(ValueError, match="3 stored user features, 148 expected"):
        Assembler(FEATURES).user_vector(state, 0)


def test_pair_features_of_a_small_case_worked_by_hand() -> None:
    user, item = defaults_of(FEATURES.user)[None], defaults_of(FEATURES.item)[None]
    at = FEATURES.position
    user[0, at["user_genre_drama_90d"]], user[0, at["user_genre_war_90d"]] = 0.25, 0.5
    item[0, [at["item_genre_drama"], at["item_genre_comedy"]]] = 1
    item[0, at["item_genre_count"]] = 2
    item[0, at["item_year"]], user[0, at["user_mean_year_90d"]] = 1990, 2000
    item[0, at["item_maturity"]], user[0, at["user_age"]] = 12, 30
    context = context_features(FEATURES, np.array([0]), device_codes(["web"]), country_codes(["US"], FEATURES))

    values = pair_features(FEATURES, user, item, context)[0].tolist()
    row = dict(zip([f.name.removeprefix("pair_") for f in FEATURES.pair], values, strict=True))

    assert (row["genre_match_90d"], row["genre_match_1d"], row["genre_new"]) == (0.25, 0, 0.5)
    assert (row["year_distance"], row["age_margin"], row["user_device"]) == (10, 18, 0.25)
