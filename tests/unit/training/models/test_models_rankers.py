"""Both rankers learn a known order, keep it through a save, and refuse what teaches nothing."""

import numpy as np
import pytest
import torch
from tower_worlds import FolderReporter

from serving.errors import DataError
from training.config import LambdaMartSettings, NeuralRankerSettings
from training.models import lambdamart
from training.models.lambdamart import LambdaMart, fit_lambdamart
from training.models.neural_ranker import NeuralRanker, listwise_loss, train_neural_ranker
from training.models.ranker import RankerRows, hold_out_groups, informative_groups

TREES = LambdaMartSettings(trees=40, depth=3, column_share=1, row_share=1, min_child_weight=1)


def world(seed=0, requests=200, noise=0.0):
    """Candidates whose grade follows the first two features; feature 2 is the same for a whole request."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 15, requests).astype(np.int32)
    total = int(sizes.sum())
    features = rng.normal(size=(total, 5)).astype(np.float32)
    features[:, 2] = np.repeat(rng.integers(-90, 90, requests) * 10, sizes)
    value = features[:, 0] + 0.5 * features[:, 1] + noise * rng.normal(size=total)
    return RankerRows(features, np.digitize(value, [0.5, 1.2, 2.0]).astype(np.int8), sizes)


def ndcg(rows, scores):
    found = []
    for start, stop in zip(rows.group_starts[:-1], rows.group_starts[1:], strict=True):
        gain = 2.0 ** rows.grade[start:stop] - 1
        discount = 1 / np.log2(np.arange(len(gain)) + 2)
        best = np.sort(gain)[::-1] @ discount
        if best > 0:
            found.append(gain[np.argsort(-scores[start:stop], kind="stable")] @ discount / best)
    return np.mean(found)


def train_neural(rows, folder, reporter=None, **settings):
    rows.save(folder / "data")
    reporter = reporter or FolderReporter(folder / "checkpoint")
    chosen = NeuralRankerSettings(
        model="neural", **{"hidden": (32,), "epochs": 12, "batch_requests": 16, "learning_rate": 1e-2, **settings}
    )
    config = {"data": str(folder / "data"), "settings": chosen.model_dump(), "seed": 3, "threads": 1}
    train_neural_ranker(config, reporter)
    return NeuralRanker.load(folder / "checkpoint" / "model")


def test_trees_learn_the_order_of_unseen_requests():
    model = fit_lambdamart(world(), TREES, seed=1)
    fresh = world(seed=9)
    assert ndcg(fresh, model.score(fresh.features)) > 0.95


def test_the_neural_ranker_learns_the_order_of_unseen_requests(tmp_path):
    model = train_neural(world(), tmp_path)
    fresh = world(seed=9)
    assert ndcg(fresh, model.score(fresh.features)) > 0.95


def test_trees_and_their_scores_survive_a_save_without_pickle(tmp_path):
    model = fit_lambdamart(world(), TREES, seed=1)
    model.save(tmp_path)
    features = world(seed=9).features
    np.testing.assert_array_equal(LambdaMart.load(tmp_path).score(features), model.score(features))
    assert [path.name for path in tmp_path.iterdir()] == ["lambdamart.ubj"]


def test_the_neural_ranker_survives_a_save_without_pickle(tmp_path):
    model = train_neural(world(requests=20), tmp_path, epochs=1)
    model.save(tmp_path / "again")
    features = world(seed=9).features
    np.testing.assert_array_equal(NeuralRanker.load(tmp_path / "again").score(features), model.score(features))
    assert sorted(path.suffix for path in (tmp_path / "again").iterdir()) == [".json", ".npz"]


def test_the_same_seed_grows_the_same_trees():
    settings = TREES.model_copy(update={"row_share": 0.7, "column_share": 0.6})
    features = world(seed=9).features
    first, second, other = (fit_lambdamart(world(), settings, seed).score(features) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_noise_stops_training_before_all_trees_and_cuts_at_the_best():
    rng = np.random.default_rng(0)
    rows = world(noise=0.5)
    shuffled = RankerRows(rows.features, rng.permutation(rows.grade), rows.group_sizes)
    model = fit_lambdamart(shuffled, TREES.model_copy(update={"trees": 300}), seed=1)
    assert model.booster.num_boosted_rounds() < 250


def test_a_given_validation_set_is_used():
    model = fit_lambdamart(world(), TREES, seed=1, validation=world(seed=4))
    assert ndcg(world(seed=9), model.score(world(seed=9).features)) > 0.95


def test_rows_fed_in_blocks_give_the_same_trees(monkeypatch):
    """Rounded features have fewer values than there are bins, so that both ways cut at every value."""
    rows, features = world(), world(seed=9).features
    rounded = RankerRows(rows.features.round(1), rows.grade, rows.group_sizes)
    whole = fit_lambdamart(rounded, TREES, seed=1).score(features)
    monkeypatch.setattr(lambdamart, "BLOCK_ROWS", 300)
    np.testing.assert_allclose(fit_lambdamart(rounded, TREES, seed=1).score(features), whole, rtol=1e-5)


def test_progress_is_said_with_the_metric():
    lines = []
    fit_lambdamart(world(), TREES, seed=1, progress=lines.append)
    assert lines[0].startswith("lambdamart: tree 25, validation ndcg@20 0.9")


def test_no_rows_score_to_nothing(tmp_path):
    empty = np.zeros((0, 5), np.float32)
    assert fit_lambdamart(world(), TREES, seed=1).score(empty).shape == (0,)
    assert train_neural(world(requests=20), tmp_path, epochs=1).score(empty).shape == (0,)


def test_a_single_request_is_enough_to_train_on(tmp_path):
    one = RankerRows(np.eye(3, dtype=np.float32), np.array([0, 1, 2], np.int8), np.array([3], np.int32))
    assert np.isfinite(fit_lambdamart(one, TREES, seed=1).score(one.features)).all()
    assert np.isfinite(train_neural(one, tmp_path, epochs=1).score(one.features)).all()


def test_a_damaged_model_file_is_named(tmp_path):
    (tmp_path / "lambdamart.ubj").write_bytes(b"{nonsense")
    with pytest.raises(DataError, match=r"lambdamart.ubj is no xgboost model"):
        LambdaMart.load(tmp_path)


def test_requests_without_different_grades_teach_nothing():
    rows = RankerRows(
        np.zeros((5, 1), np.float32), np.array([1, 1, 0, 2, 3], np.int8), np.array([2, 0, 2, 1], np.int32)
    )
    assert informative_groups(rows).tolist() == [False, False, True, False]


def test_data_without_any_order_is_refused():
    flat = RankerRows(np.zeros((4, 1), np.float32), np.ones(4, np.int8), np.array([2, 2], np.int32))
    with pytest.raises(DataError, match="no order to learn"):
        fit_lambdamart(flat, TREES, seed=1)


def test_sizes_that_do_not_fit_and_wild_grades_are_reported_together():
    rows = RankerRows(np.zeros((4, 1), np.float32), np.array([0, 9, 1], np.int8), np.array([2, 2], np.int32))
    with pytest.raises(DataError) as caught:
        rows.check()
    assert len(caught.value.problems) == 2


def test_nan_in_a_feature_is_refused_by_column():
    rows = world()
    rows.features[3, 4] = np.nan
    with pytest.raises(DataError, match="column 4"):
        fit_lambdamart(rows, TREES, seed=1)


def test_held_out_requests_are_a_share_drawn_by_seed():
    assert hold_out_groups(50, 0.1, 1).sum() == 5
    assert (hold_out_groups(50, 0.1, 1) == hold_out_groups(50, 0.1, 1)).all()
    assert hold_out_groups(1, 0.1, 1).tolist() == [False]


def test_the_listwise_loss_is_the_mean_of_each_requests_cross_entropy():
    scores = torch.tensor([1.0, 0.0, 2.0, 0.5, -0.5])
    grade, group = torch.tensor([3, 0, 1, 0, 0]), torch.tensor([0, 0, 0, 1, 1])
    gains = torch.tensor([7 / 8, 0.0, 1 / 8])
    wanted = -(gains * torch.log_softmax(scores[:3], 0)).sum() / 2
    torch.testing.assert_close(listwise_loss(scores, grade, group, 2), wanted)


def test_the_listwise_loss_stands_huge_scores():
    scores = torch.tensor([1e4, -1e4], requires_grad=True)
    listwise_loss(scores, torch.tensor([0, 3]), torch.tensor([0, 0]), 1).backward()
    assert torch.isfinite(scores.grad).all()


def test_a_stopped_neural_run_continues_and_ends_as_one_that_was_not(tmp_path):
    rows = world(requests=40)
    whole = train_neural(rows, tmp_path / "whole", epochs=4)
    stopped = FolderReporter(tmp_path / "parts" / "checkpoint", stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        train_neural(rows, tmp_path / "parts", stopped, epochs=4)
    resumed = FolderReporter(tmp_path / "parts" / "checkpoint")
    parts = train_neural(rows, tmp_path / "parts", resumed, epochs=4)
    assert resumed.epochs == [3, 4]
    np.testing.assert_allclose(parts.score(rows.features), whole.score(rows.features), rtol=1e-4, atol=1e-5)
