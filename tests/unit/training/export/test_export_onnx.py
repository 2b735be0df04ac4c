"""Exported models say what the trained ones say, name their features, and carry nothing of the machine."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from serving.bundles.manifest import FeatureEntry, FeatureManifest
from serving.errors import BundleError
from serving.features.spec import VIEWS
from training.config import LambdaMartSettings
from training.export.parity import check_parity, compare
from training.export.ranker import export_split_ranker, split_rows
from training.export.towers import export_item_tower, export_neural_ranker, export_user_tower
from training.export.trees import export_lambdamart
from training.models.lambdamart import fit_lambdamart
from training.models.neural_ranker import NeuralRanker
from training.models.ranker import RankerRows
from training.models.two_tower import TwoTower

WIDTH, DIMENSION = 6, 8


def entries(prefix, count=WIDTH):
    return [FeatureEntry(name=f"{prefix}_{i}", default=float(i)) for i in range(count)]


def rows(count, width=WIDTH, seed=0):
    return (np.random.default_rng(seed).normal(size=(count, width)) * 30).astype(np.float32)


@pytest.fixture(scope="module")
def two_tower():
    torch.manual_seed(1)
    model = TwoTower(WIDTH, WIDTH, 20, DIMENSION, (16,))
    torch.nn.init.normal_(model.ids.weight)
    model.user_tower.standardise.fit(rows(100))
    model.item_tower.standardise.fit(rows(100, seed=1))
    return model.eval()


@pytest.fixture(scope="module")
def forest():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(4000, WIDTH)).astype(np.float32)
    features[:, 1] = rng.integers(0, 6, 4000)
    features[:, 2] = rng.integers(0, 7, 4000) * np.float32(0.1)
    grade = np.digitize(features[:, 0] + features[:, 1] / 2 + features[:, 2], [1, 2, 3]).astype(np.int8)
    data = RankerRows(features, grade, np.full(400, 10, np.int32))
    return fit_lambdamart(data, LambdaMartSettings(trees=50, depth=6), seed=1), features


def thresholds(model, column, count):
    split = model.booster.trees_to_dataframe().query(f"Feature == 'f{column}'").Split.to_numpy(np.float32)
    return np.random.default_rng(column).choice(split, count)


def metadata(content):
    session = onnxruntime.InferenceSession(content)
    return session.get_modelmeta().custom_metadata_map


def test_the_user_tower_agrees_for_any_number_of_rows_and_without_history(two_tower):
    content = export_user_tower(two_tower, entries("user"))
    for count in (1, 2, 33):
        history = np.random.default_rng(count).integers(-1, 20, (count, 5))
        history[0] = -1
        pooled = two_tower.pool(torch.from_numpy(history)).detach().numpy()
        inputs = {"user": rows(count), "history": pooled}
        check_parity("user tower", two_tower.embed_users(inputs["user"], history), content, inputs)
    assert not pooled[0].any()


def test_the_item_tower_agrees_for_known_and_for_new_items(two_tower):
    content = export_item_tower(two_tower, entries("item"))
    features = rows(20, seed=5)
    known = {"item": features, "id_embedding": two_tower.history_table()}
    check_parity("item tower", two_tower.embed_items(features), content, known)
    new = {"item": features, "id_embedding": np.zeros((20, DIMENSION), np.float32)}
    check_parity("item tower", two_tower.embed_items(features, known=False), content, new)


def test_the_neural_ranker_agrees_and_scores_are_flat():
    torch.manual_seed(0)
    model = NeuralRanker(WIDTH, (8,), dropout=0.5)
    model.standardise.fit(rows(50))
    content = export_neural_ranker(model, entries("f"))
    check_parity("ranker", model.score(rows(7)), content, {"features": rows(7)})


def manifest():
    views = {view: tuple(entries(view, count)) for view, count in zip(VIEWS, (5, 4, 3, 2, 2), strict=True)}
    return FeatureManifest(**views)


def trained(hidden=(8, 5), width=16):
    torch.manual_seed(0)
    model = NeuralRanker(width, hidden, dropout=0.5)
    sample = rows(200, width)
    sample[:, 3] = 7  # a column that never varies
    sample[:, 4] = 2000 + sample[:, 4] / 30  # one that varies little
    model.standardise.fit(sample)
    return model.eval()


@pytest.mark.parametrize("hidden", [(), (8,), (8, 5)])
def test_the_split_ranker_agrees_for_one_request_and_for_a_request_per_row(hidden):
    model, features = trained(hidden), manifest()
    content = export_split_ranker(model, features)
    per_row = rows(50, 16, seed=3) * np.float32(100)  # far out, where standardised values are cut
    per_row[:10] = 0
    per_row[10:20] *= np.float32(1e-12)
    check_parity("ranker", model.score(per_row), content, split_rows(per_row, features))
    one = per_row.copy()
    own = [i for i, name in enumerate(features.names) if name.split("_")[0] in ("user", "context")]
    one[:, own] = one[30, own]
    inputs = split_rows(one, features)
    check_parity("ranker", model.score(one), content, {**inputs, "request": inputs["request"][:1]})


def test_the_split_ranker_scores_a_candidate_alone_as_in_company():
    features = manifest()
    session = onnxruntime.InferenceSession(export_split_ranker(trained(), features))
    inputs = split_rows(rows(40, 16), features)
    request = inputs["request"][:1]
    together = session.run(None, {"request": request, "candidate": inputs["candidate"]})[0]
    alone = [session.run(None, {"request": request, "candidate": row[None]})[0][0] for row in inputs["candidate"]]
    np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_the_split_ranker_names_its_features_and_nothing_of_the_machine():
    features = manifest()
    content = export_split_ranker(trained(), features)
    session = onnxruntime.InferenceSession(content)
    assert [(tensor.name, tensor.shape[1]) for tensor in session.get_inputs()] == [("request", 8), ("candidate", 8)]
    found = json.loads(metadata(content)["sieve.inputs"])
    assert [entry["name"] for entry in found["request"]] == [f"user_{i}" for i in range(5)] + [
        f"context_{i}" for i in range(3)
    ]
    assert content == export_split_ranker(trained(), features)
    assert onnx.load_from_string(content).producer_name == "sieve"


def test_a_ranker_of_another_width_is_refused():
    with pytest.raises(BundleError, match="it takes 5 features, 16 are named"):
        export_split_ranker(NeuralRanker(5, (4,), 0.0), manifest())


def test_trees_agree_on_ordinary_rows(forest):
    model, features = forest
    content = export_lambdamart(model, entries("f"))
    parity = check_parity("ranker", model.score(features), content, {"features": features})
    assert parity.max_relative_error < 1e-5


def test_trees_agree_exactly_on_their_thresholds_and_one_step_beside_them(forest):
    model, _ = forest
    content = export_lambdamart(model, entries("f"))
    on = np.column_stack([thresholds(model, column, 2000) for column in range(WIDTH)])
    for values in (on, np.nextafter(on, np.float32(np.inf)), np.nextafter(on, np.float32(-np.inf))):
        parity = check_parity("ranker", model.score(values), content, {"features": values})
        assert parity.max_relative_error < 1e-5


def test_trees_agree_where_values_are_missing_infinite_or_signed_zero(forest):
    model, features = forest
    content = export_lambdamart(model, entries("f"))
    wild = features[:1000].copy()
    wild[np.random.default_rng(0).random(wild.shape) < 0.3] = np.nan
    wild[:50, 0], wild[50:99, 0], wild[99:150, 0] = np.inf, -np.inf, -0.0
    check_parity("ranker", model.score(wild), content, {"features": wild})


def test_a_forest_of_bare_leaves_exports_too():
    features = np.zeros((4, 2), np.float32)
    data = RankerRows(features, np.array([0, 1, 0, 1], np.int8), np.array([2, 2], np.int32))
    model = fit_lambdamart(data, LambdaMartSettings(trees=2), seed=1)
    check_parity("ranker", model.score(features), export_lambdamart(model, entries("f", 2)), {"features": features})


def test_each_model_names_its_features_in_order_with_dtype_and_default(two_tower, forest):
    found = json.loads(metadata(export_user_tower(two_tower, entries("user")))["sieve.inputs"])
    assert list(found) == ["user"]
    assert found["user"][2] == {"name": "user_2", "dtype": "float32", "default": 2.0}
    assert "features" in metadata(export_lambdamart(forest[0], entries("f")))["sieve.inputs"]


def test_inputs_and_outputs_have_the_names_and_shapes_that_a_bundle_expects(two_tower, forest):
    wanted = {
        export_user_tower(two_tower, entries("u")): (["user", "history"], "embedding", [DIMENSION]),
        export_item_tower(two_tower, entries("i")): (["item", "id_embedding"], "embedding", [DIMENSION]),
        export_lambdamart(forest[0], entries("f")): (["features"], "score", []),
        export_neural_ranker(NeuralRanker(WIDTH, (4,), 0.0), entries("f")): (["features"], "score", []),
    }
    for content, (inputs, output, tail) in wanted.items():
        session = onnxruntime.InferenceSession(content)
        assert [tensor.name for tensor in session.get_inputs()] == inputs
        assert session.get_outputs()[0].name == output
        assert session.get_outputs()[0].shape[1:] == tail
        assert isinstance(session.get_outputs()[0].shape[0], str)


def test_the_user_tower_says_how_much_history_it_pools(two_tower):
    assert metadata(export_user_tower(two_tower, entries("user")))["sieve.pooled_history"] == "50"


def test_the_same_model_gives_the_same_bytes_and_no_path_of_this_machine(two_tower, forest):
    for export, model in ((export_user_tower, two_tower), (export_lambdamart, forest[0])):
        content = export(model, entries("f"))
        assert content == export(model, entries("f"))
        assert b".py" not in content
        assert b"site-packages" not in content
        assert onnx.load_from_string(content).producer_name == "sieve"


def test_a_wrong_number_of_features_is_refused(forest):
    with pytest.raises(BundleError, match="input 'features' takes 6 features, 5 are named"):
        export_lambdamart(forest[0], entries("f", 5))


def test_a_model_that_differs_is_refused_with_the_numbers(forest):
    model, features = forest
    content = export_lambdamart(model, entries("f"))
    wrong = model.score(features)
    wrong[7] += 1
    with pytest.raises(BundleError, match=r"ranker: ONNX differs.*\n.*max relative error") as caught:
        check_parity("ranker", wrong, content, {"features": features})
    assert "of the order agrees" in str(caught.value)


def test_another_shape_is_refused(forest):
    model, features = forest
    with pytest.raises(BundleError, match=r"shape \(4000,\), not \(3,\)"):
        check_parity("ranker", np.zeros(3, np.float32), export_lambdamart(model, entries("f")), {"features": features})


def test_the_error_is_relative_and_floored_by_the_rms():
    parity = compare(np.array([0.0, 10.0]), np.array([1e-3, 10.0]))
    assert parity.max_relative_error == pytest.approx(1e-3 / np.sqrt(50))


def test_order_counts_only_where_scores_are_apart():
    near = compare(np.array([1.0, 1.0005, 2.0]), np.array([1.0005, 1.0, 2.0]))
    assert near.order_agreement == 1
    dense = np.arange(0, 1, 1e-4)
    assert compare(dense, np.roll(dense, 1)).order_agreement < 1
    far = compare(np.array([1.0, 1.5, 2.0]), np.array([1.5, 1.0, 2.0]))
    assert far.order_agreement == 0.5


def test_nan_on_one_side_only_is_no_agreement():
    assert not compare(np.array([1.0]), np.array([np.nan])).max_relative_error <= 1e-4
    assert compare(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])).max_relative_error == 0


def test_nothing_agrees_with_nothing():
    assert compare(np.zeros(0), np.zeros(0)).max_relative_error == 0
