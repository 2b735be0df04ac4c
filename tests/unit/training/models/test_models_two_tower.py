"""The two-tower learns blocks, embeds new items by content, resumes, and corrects for sampling."""

import numpy as np
import pytest
import torch
from tower_worlds import BLOCKS, PER_BLOCK, FolderReporter, block_world, train

from serving.errors import DataError
from serving.retrieval.user_tower import POOLED_HISTORY
from training.models import two_tower
from training.models.tower_data import TowerData, tower_data
from training.models.two_tower import TwoTower, sampled_softmax_loss
from training.models.two_tower_loop import epoch_rows, make_batch

N_ITEMS = BLOCKS * PER_BLOCK


def block_of(rows):
    return np.asarray(rows) // PER_BLOCK


def top(model, data, history, k, known=True):
    features = np.tile(np.array([[3.0, 3.0, 0.0]], np.float32), (len(history), 1))
    scores = model.embed_users(features, history) @ model.embed_items(data.item_features, known).T
    return np.argsort(-scores, axis=1)[:, :k]


def test_a_user_gets_the_items_of_the_own_block(tmp_path):
    data, _ = block_world()
    model = train(data, tmp_path)
    history = np.array([[-1, b * PER_BLOCK, b * PER_BLOCK + 1] for b in range(BLOCKS)])
    found = block_of(top(model, data, history, PER_BLOCK))
    assert (found == np.arange(BLOCKS)[:, None]).mean() > 0.95


def test_items_that_nobody_took_are_retrieved_by_their_content(tmp_path):
    hidden = [b * PER_BLOCK + 5 for b in range(BLOCKS)]
    data, _ = block_world(hidden_items=hidden)
    model = train(data, tmp_path, id_dropout=0.3)
    history = np.array([[b * PER_BLOCK, b * PER_BLOCK + 1, b * PER_BLOCK + 2] for b in range(BLOCKS)])
    features = np.tile(np.array([[3.0, 3.0, 0.0]], np.float32), (BLOCKS, 1))
    new = model.embed_items(np.array(data.item_features[hidden]), known=False)
    scores = model.embed_users(features, history) @ new.T
    assert scores.argmax(axis=1).tolist() == list(range(BLOCKS))
    everything = top(model, data, history, PER_BLOCK + 3, known=True)
    assert all(hidden[b] in everything[b] for b in range(BLOCKS))


def test_an_item_without_positives_embeds_as_a_new_item_does(tmp_path):
    data, _ = block_world(hidden_items=[7])
    model = train(data, tmp_path, epochs=2)
    known, new = (model.embed_items(data.item_features, known)[7] for known in (True, False))
    np.testing.assert_array_equal(known, new)
    assert not model.history_table()[7].any()


def test_a_user_without_history_gets_a_unit_vector_too(tmp_path):
    data, _ = block_world()
    model = train(data, tmp_path, epochs=1)
    found = model.embed_users(np.zeros((2, 3), np.float32), np.full((2, 5), -1))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_the_history_is_pooled_as_the_mean_of_its_id_embeddings():
    torch.manual_seed(0)
    model = TwoTower(2, 2, 5, 4, (8,))
    torch.nn.init.normal_(model.ids.weight)
    table = model.history_table()
    pooled = model.pool(torch.tensor([[-1, 3, 1], [-1, -1, -1]])).detach().numpy()
    np.testing.assert_allclose(pooled[0], (table[3] + table[1]) / 2, rtol=1e-6)
    assert not pooled[1].any()


def test_a_run_that_was_stopped_continues_and_ends_as_one_that_was_not(tmp_path):
    data, _ = block_world(users=60)
    whole = train(data, tmp_path / "whole", epochs=4)
    stopped = FolderReporter(tmp_path / "parts" / "checkpoint", stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "parts", stopped, epochs=4)
    resumed = FolderReporter(tmp_path / "parts" / "checkpoint")
    parts = train(data, tmp_path / "parts", resumed, epochs=4)
    assert resumed.epochs == [3, 4]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_sparse_id_table_learns_the_same_blocks_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(two_tower, "SPARSE_ABOVE", 10)
    data, _ = block_world()
    stopped = FolderReporter(tmp_path / "checkpoint", stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, stopped)
    model = train(data, tmp_path)
    history = np.array([[b * PER_BLOCK, b * PER_BLOCK + 1] for b in range(BLOCKS)])
    assert (block_of(top(model, data, history, PER_BLOCK)) == np.arange(BLOCKS)[:, None]).mean() > 0.95


def test_what_was_saved_comes_back(tmp_path):
    data, _ = block_world(users=30)
    model = train(data, tmp_path, epochs=1)
    model.save(tmp_path / "again")
    again = TwoTower.load(tmp_path / "again")
    np.testing.assert_array_equal(model.embed_items(data.item_features), again.embed_items(data.item_features))
    assert sorted(path.suffix for path in (tmp_path / "again").iterdir()) == [".json", ".npz"]


def test_a_constant_feature_and_an_outlier_do_no_harm(tmp_path):
    data, _ = block_world(users=30)
    model = train(data, tmp_path, epochs=1)
    found = model.embed_users(np.array([[1e30, -1e30, 0]], np.float32), np.array([[1, 2]]))
    assert np.isfinite(found).all()


def test_the_loss_over_a_batch_that_holds_every_item_is_the_full_softmax():
    """When q says that a batch surely holds each item, no correction remains."""
    scores = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.1, 0.2]])
    surely = torch.full((3,), -1e-7)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    positive = torch.tensor([1, 0])
    found = sampled_softmax_loss(scores, positive, surely, 1000, nothing, torch.ones(2))
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(scores, positive))


def test_the_correction_is_the_log_probability_of_being_in_the_batch():
    scores, q = torch.tensor([[0.3, 0.7]]), torch.tensor([0.5, 0.01])
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    found = sampled_softmax_loss(scores, torch.tensor([0]), q.log(), 8, nothing, torch.ones(1))
    logits = scores - (1 - (1 - q) ** 8).log()
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, torch.tensor([0])))


def test_the_correction_makes_the_batch_loss_gradient_agree_with_the_full_softmax():
    """Over many batches the mean corrected partition is close to that of all items; uncorrected it is not."""
    rng = np.random.default_rng(0)
    q = np.array([0.6, 0.25, 0.1, 0.04, 0.01])
    scores = np.array([0.2, -0.3, 0.5, 1.0, 0.8])
    present = 1 - (1 - q) ** 6
    drawn = [np.unique(rng.choice(5, 6, p=q)) for _ in range(20_000)]
    corrected = np.mean([np.exp(scores[batch] - np.log(present[batch])).sum() for batch in drawn])
    assert corrected == pytest.approx(np.exp(scores).sum(), rel=0.03)


def test_items_of_the_own_history_are_no_negatives_and_a_positive_never_is_excluded():
    data = tower_data(
        np.zeros((3, 1), np.float32),
        np.array([[-1, 2], [0, 1], [-1, -1]], np.int32),
        np.array([0, 1, 2]),
        np.array([1, 2, 3]),
        np.zeros((4, 1), np.float32),
    )
    batch = make_batch(data, np.array([0, 1, 2]))
    assert batch.item.tolist() == [0, 1, 2]
    assert batch.excluded.tolist() == [[False, False, True], [True, True, False], [False, False, False]]
    assert batch.weight.tolist() == [1.0, 1.5, 2.0]
    scores = torch.zeros(3, 3, requires_grad=True)
    loss = sampled_softmax_loss(scores, batch.positive, batch.log_q, 3, batch.excluded, batch.weight)
    loss.backward()
    assert scores.grad[0, 2] == 0
    assert scores.grad[0, 1] > 0
    assert scores.grad[0, 0] < 0


def test_workers_share_the_rows_of_an_epoch_without_overlap():
    parts = [epoch_rows(11, seed=1, epoch=0, rank=rank, world=3) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    assert len(np.unique(np.concatenate(parts))) == 9
    assert epoch_rows(11, 1, 1, 0, 3).tolist() != parts[0].tolist()


def test_more_workers_than_rows_still_get_a_row_each():
    assert [len(epoch_rows(2, 0, 0, rank, 4)) for rank in range(4)] == [1, 1, 1, 1]


def test_only_the_newest_items_of_a_long_history_are_kept_and_log_q_is_the_share():
    history = np.tile(np.arange(80), (2, 1))
    data = tower_data(
        np.zeros((2, 1), np.float32), history, np.array([3, 3]), np.array([1, 1]), np.zeros((90, 1), np.float32)
    )
    assert data.history.shape == (2, POOLED_HISTORY)
    assert data.history[0, -1] == 79
    assert data.log_q[3] == 0
    assert data.log_q[4] == -np.inf


def test_features_without_defaults_stop_training_and_are_named():
    with pytest.raises(DataError, match="column 1 holds NaN"):
        tower_data(
            np.array([[0, np.nan]], np.float32),
            np.full((1, 2), -1),
            np.array([0]),
            np.array([1]),
            np.zeros((1, 1), np.float32),
        )


def test_all_problems_of_the_data_are_reported_at_once():
    with pytest.raises(DataError) as caught:
        tower_data(
            np.zeros((2, 1), np.float32),
            np.full((3, 2), 9),
            np.array([0, 5]),
            np.array([1, 1]),
            np.zeros((2, 1), np.float32),
        )
    assert len(caught.value.problems) == 3


def test_data_comes_back_from_its_folder(tmp_path):
    data, _ = block_world(users=5)
    data.save(tmp_path)
    np.testing.assert_array_equal(TowerData.open(tmp_path).history, data.history)
