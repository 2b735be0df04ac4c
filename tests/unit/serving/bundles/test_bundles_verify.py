import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_fixture import build_tiny_bundle, fill_draft, tiny_fields

from serving.bundles.bundle import Bundle
from serving.bundles.golden import order_problem, value_problem
from serving.bundles.manifest import FeatureManifest
from serving.bundles.verify import verify_bundle
from serving.bundles.writer import BundleWriter
from serving.errors import BundleError


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("store"))


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """A bundle to damage; it keeps its name, which is its version."""
    return Path(shutil.copytree(published, tmp_path / published.name))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_draft(tmp_path_factory.mktemp("draft")).directory


@pytest.fixture
def writer(filled: Path, tmp_path: Path) -> BundleWriter:
    """A draft whose contents can be changed before it is sealed, so that all hashes are right."""
    return BundleWriter(Path(shutil.copytree(filled, tmp_path / "draft")))


def problems_after_sealing(writer: BundleWriter) -> list[str]:
    writer.seal(tiny_fields())
    return verify_bundle(writer.directory, published=False)


def change(writer: BundleWriter, path: str, edit: Callable[[np.ndarray], None]) -> None:
    array = np.load(writer.directory / path)
    edit(array)
    writer.write_array(path, array)


def flip_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << (place % 8)
    path.write_bytes(content)


def test_a_sound_bundle_has_no_problems(published: Path) -> None:
    assert verify_bundle(published) == []


@pytest.fixture(scope="module")
def published_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), split_ranker=True)


def test_a_bundle_whose_ranker_takes_shared_features_apart_has_no_problems(published_split: Path) -> None:
    assert verify_bundle(published_split) == []


@pytest.mark.parametrize(
    ("path", "factor", "expected"),
    [
        ("golden/candidate.npy", 1.5, "recomputed values are off by"),
        ("golden/request.npy", np.inf, "values that are not finite"),
    ],
)
def test_golden_inputs_of_a_split_ranker_are_recomputed_with(
    path: str, factor: float, expected: str, tmp_path: Path
) -> None:
    writer = fill_draft(tmp_path / "draft", split_ranker=True)
    array = np.load(writer.directory / path)
    writer.write_array(path, array * np.float32(factor))
    writer.seal(tiny_fields(split_ranker=True))

    [problem] = verify_bundle(writer.directory, published=False)

    assert problem.startswith(f"golden/scores.npy: {expected}")


def test_golden_inputs_that_are_missing_are_named(tmp_path: Path) -> None:
    writer = fill_draft(tmp_path / "draft", split_ranker=True)
    (writer.directory / "golden/request.npy").unlink()
    writer.seal(tiny_fields(split_ranker=True))

    assert verify_bundle(writer.directory, published=False) == ["golden/request.npy: the bundle lacks this file"]


def test_a_manifest_that_lists_the_other_kind_of_ranker_is_found(tmp_path: Path) -> None:
    writer = fill_draft(tmp_path / "draft", split_ranker=True)
    writer.seal(tiny_fields(split_ranker=False))

    problems = verify_bundle(writer.directory, published=False)

    assert any(problem.startswith("models/ranker.onnx: lacks the input 'features'") for problem in problems)


@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_one_flipped_byte_in_any_file_is_found_and_the_file_is_named(copy: Path, share: float) -> None:
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    assert len(files) > 25
    for path in files:
        sound = path.read_bytes()
        flip_byte(path, int(share * (len(sound) - 1)))
        problems = verify_bundle(copy)
        assert any(problem.startswith(path.relative_to(copy).as_posix()) for problem in problems), path
        path.write_bytes(sound)
    assert verify_bundle(copy) == []


def test_every_byte_of_the_manifest_counts(copy: Path) -> None:
    manifest = copy / "manifest.json"
    sound = manifest.read_bytes()
    for place in range(0, len(sound), 211):
        flip_byte(manifest, place)
        assert verify_bundle(copy), f"byte {place}"
        manifest.write_bytes(sound)


def test_a_manifest_changed_consistently_no_longer_fits_the_folders_name(copy: Path) -> None:
    manifest = copy / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"ndcg@20":0.31', b'"ndcg@20":0.91'))
    [problem] = verify_bundle(copy)
    assert problem.startswith("manifest.json: is that of version 20260401T000000Z-")


def test_all_problems_are_told_at_once(copy: Path) -> None:
    (copy / "models/ranker.onnx").unlink()
    flip_byte(copy / "popular/rows.npy", 200)
    (copy / "notes.txt").write_text("left behind")
    problems = verify_bundle(copy)
    assert [problem.split(":")[0] for problem in problems] == ["models/ranker.onnx", "notes.txt", "popular/rows.npy"]
    assert "missing" in problems[0]
    assert "not listed" in problems[1]


def test_loading_refuses_a_damaged_bundle_with_the_list(copy: Path) -> None:
    flip_byte(copy / "embeddings/item.npy", 300)
    with pytest.raises(BundleError) as caught:
        Bundle.load(copy)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["embeddings/item.npy"]


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert verify_bundle(tmp_path) == ["manifest.json: No such file or directory"]


def test_a_link_out_of_the_bundle_is_refused(copy: Path) -> None:
    target = copy / "popular/rows.npy"
    target.unlink()
    target.symlink_to("/etc/hostname")
    assert any(problem.startswith("popular/rows.npy: neither") for problem in verify_bundle(copy))


@pytest.mark.parametrize(
    ("name", "content"),
    [("ann/scann_docids.pkl", b"anything"), ("ann/assets.bin", b"\x80\x04K\x01."), ("models/weights.pt", b"PK")],
)
def test_a_pickle_is_refused_even_where_the_manifest_lists_it(writer: BundleWriter, name: str, content: bytes) -> None:
    writer.write_bytes(name, content)
    [problem] = problems_after_sealing(writer)
    assert problem.startswith(f"{name}: a pickle")


def test_an_array_of_python_objects_is_refused(writer: BundleWriter) -> None:
    path = writer.path("lists/extra.npy")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    [problem] = problems_after_sealing(writer)
    assert problem == "lists/extra.npy: an array of pickled Python objects"


@pytest.mark.parametrize(
    ("path", "edit", "expected"),
    [
        ("item_to_item/rows.npy", lambda a: a.__setitem__((3, 2), 150), "rows from 0 to 150"),
        ("item_to_item/rows.npy", lambda a: a.__setitem__((3, 2), -2), "rows from -2"),
        ("popular/rows.npy", lambda a: a.__setitem__((0, 0), -1), "padding (-1) before a row"),
        ("popular/rows.npy", lambda a: a.__setitem__((0, 0), a[0, 1]), "an item twice in one list"),
        ("popular/scores.npy", lambda a: a.__setitem__((1, 5), np.nan), "an item without a finite score"),
        ("embeddings/history.npy", lambda a: a.__setitem__((7, 0), np.inf), "not finite"),
        ("embeddings/item.npy", lambda a: a.__imul__(2), "a row's length is 1 away from 1"),
        ("embeddings/item.npy", lambda a: a.__setitem__(5, a[6]), "the item tower gives embeddings that differ"),
        ("embeddings/history.npy", lambda a: a.__setitem__(5, a[6]), "the item tower gives embeddings that differ"),
        ("golden/scores.npy", lambda a: a.__setitem__((0, 0), a[0, 0] * 1.01), "recomputed values are off by"),
        ("golden/embedding.npy", lambda a: a.__setitem__((0, 0), a[0, 0] + 0.01), "recomputed values are off by"),
        ("golden/candidates.npy", lambda a: a.__setitem__((0, 0), a[0, 1]), "recomputed values are off by"),
    ],
)  # fmt: skip
def test_wrong_contents_are_found_even_where_every_hash_is_right(
    writer: BundleWriter, path: str, edit: Callable[[np.ndarray], None], expected: str
) -> None:
    change(writer, path, edit)
    problems = problems_after_sealing(writer)
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("path", "array", "expected"),
    [
        ("embeddings/item.npy", np.zeros((150, 9), np.float32), "float32[150, 9] where float32[150, 8]"),
        ("lists/rows.npy", np.zeros((9, 100), np.int64), "int64[9, 100] where int32[9, 100]"),
        ("popular/rows.npy", np.zeros((1, 50), np.int32), "int32[1, 50] where int32[9, any]"),
        ("popular/rows.npy", np.zeros((9, 0), np.int32), "int32[9, 0] where int32[9, any]"),
        ("popular/rows.npy", np.arange(90, dtype=np.int32).reshape(9, 10), "where its scores have (9, 150)"),
    ],
)  # fmt: skip
def test_an_array_of_the_wrong_shape_or_dtype_is_named(
    writer: BundleWriter, path: str, array: np.ndarray, expected: str
) -> None:
    writer.write_array(path, array)
    problems = problems_after_sealing(writer)
    assert any(problem.startswith(path) and expected in problem for problem in problems), problems


def test_a_missing_array_is_named(writer: BundleWriter) -> None:
    (writer.directory / "lists/rows.npy").unlink()
    assert problems_after_sealing(writer) == ["lists/rows.npy: the bundle lacks this file"]


def test_a_catalogue_of_another_length_is_found(writer: BundleWriter) -> None:
    fields = tiny_fields() | {"items": 149}
    writer.seal(fields)
    problems = verify_bundle(writer.directory, published=False)
    assert any(problem.startswith("catalogue: 150 rows where the manifest says 149") for problem in problems)


def edit_model(writer: BundleWriter, name: str, edit: Callable[[onnx.ModelProto], None]) -> None:
    path = writer.directory / f"models/{name}.onnx"
    model = onnx.load(path)
    edit(model)
    writer.write_bytes(f"models/{name}.onnx", model.SerializeToString())


def edit_features(model: onnx.ModelProto, edit: Callable[[list[dict]], None]) -> None:
    [prop] = model.metadata_props
    document = json.loads(prop.value)
    [features] = document.values()
    edit(features)
    prop.value = json.dumps(document)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda f: f.pop(0), "lacks user_impressions_1d"),
        (lambda f: f.reverse(), "feature 0 is"),
        (lambda f: f[1].update(default=9.0), "the dtype or default of user_impressions_7d differs"),
        (lambda f: f[1].update(dtype="float64"), "the dtype or default of user_impressions_7d differs"),
    ],
)
def test_a_model_made_for_other_features_is_refused(
    writer: BundleWriter, edit: Callable[[list[dict]], None], expected: str
) -> None:
    edit_model(writer, "ranker", lambda model: edit_features(model, edit))
    problems = problems_after_sealing(writer)
    assert any(p.startswith("models/ranker.onnx") and expected in p for p in problems), problems


def test_a_model_without_metadata_is_refused(writer: BundleWriter) -> None:
    edit_model(writer, "user_tower", lambda model: model.ClearField("metadata_props"))
    [problem] = problems_after_sealing(writer)
    assert problem.startswith("models/user_tower.onnx: input 'user': 0 features in its metadata")


def test_a_model_that_lost_an_input_is_refused(writer: BundleWriter) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[1].name = "past"
        model.graph.node[1].input[0] = "past"

    edit_model(writer, "user_tower", rename)
    problems = problems_after_sealing(writer)
    assert any("lacks the input 'history'" in problem for problem in problems), problems


def test_a_file_that_is_no_model_is_named(writer: BundleWriter) -> None:
    writer.write_bytes("models/ranker.onnx", b"not a model")
    problems = problems_after_sealing(writer)
    assert any(problem.startswith("models/ranker.onnx: ") for problem in problems)


def test_a_bundle_made_for_features_that_this_installation_lacks_is_refused(writer: BundleWriter) -> None:
    fields = tiny_fields()
    features = fields["features"].model_dump()
    features["pair"][0]["name"] = "pair_of_another_release"
    writer.seal(fields | {"features": FeatureManifest.model_validate(features)})
    problems = verify_bundle(writer.directory, published=False)
    assert any("it lacks pair_genre_match_1d; it has pair_of_another_release" in p for p in problems), problems


def test_tiny_differences_between_machines_are_no_problem() -> None:
    frozen = np.array([[2.0, 1.0, -0.5, 0.0]], np.float32)
    noisy = frozen + np.float32(1e-5)
    assert value_problem(frozen, noisy) is None
    assert order_problem(frozen, noisy) is None


def test_a_relative_error_over_one_in_ten_thousand_is_a_problem() -> None:
    frozen = np.array([[2.0, 1.0]], np.float32)
    assert value_problem(frozen, frozen + np.float32(3e-4)) == "recomputed values are off by 1.5e-04 relative"


def test_scores_closer_than_a_thousandth_may_change_places_and_others_may_not() -> None:
    near = np.array([[100.0, 100.0005]], np.float32)
    assert order_problem(near, near[:, ::-1]) is None
    far = np.array([[100.0, 100.0, 100.005]], np.float32)
    moved = np.array([[100.003, 100.0, 100.002]], np.float32)
    assert value_problem(far, moved) is None
    assert order_problem(far, moved) == "request 0 is ordered differently"


def test_values_that_are_not_finite_are_a_problem_on_either_side() -> None:
    sound, broken = np.ones((1, 2), np.float32), np.array([[1.0, np.nan]], np.float32)
    assert value_problem(sound, broken) == value_problem(broken, sound) == "values that are not finite"
