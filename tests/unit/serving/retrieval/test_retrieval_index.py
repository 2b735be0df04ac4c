import shutil
import sys

import numpy as np
import pytest

from serving.errors import BundleError
from serving.retrieval.index import ExactIndex, top_rows
from serving.retrieval.scann_index import Effort, ScannIndex, build_scann, open_index, set_effort


def unit_rows(n: int, d: int, seed: int = 7) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_exact_search_finds_the_nearest_with_ties_to_the_lower_row():
    embeddings = np.array([[0, 1], [1, 0], [0.6, 0.8], [1, 0]], np.float32)
    rows, scores = ExactIndex(embeddings).search(np.array([1, 0], np.float32), 3)
    assert rows.tolist() == [1, 3, 2]
    assert scores.tolist() == pytest.approx([1, 1, 0.6])
    assert rows.dtype == np.int32


@pytest.mark.parametrize(("n", "expected"), [(0, []), (1, [2]), (2, [2, 0]), (9, [2, 0, 1, 3])])
def test_any_number_of_results_may_be_asked_for(n, expected):
    assert top_rows(np.array([3, 1, 5, 1], np.float32), n).tolist() == expected


def test_a_bundle_without_an_index_is_searched_exactly():
    assert isinstance(open_index(None, unit_rows(10, 4)), ExactIndex)


@pytest.mark.skipif(sys.platform != "linux", reason="ScaNN has Linux wheels only")
class TestScann:
    @pytest.fixture(scope="class")
    def built(self, tmp_path_factory):
        embeddings = unit_rows(20_000, 16)
        folder = tmp_path_factory.mktemp("index") / "ann"
        build_scann(embeddings, folder)
        return embeddings, folder

    def test_it_finds_nearly_what_the_exact_index_finds(self, built):
        embeddings, folder = built
        index, oracle = ScannIndex(folder, len(embeddings)), ExactIndex(embeddings)
        found = []
        for query in unit_rows(50, 16, seed=8):
            rows, scores = index.search(query, 100)
            assert len(rows) == 100
            assert (np.diff(scores) <= 0).all()
            np.testing.assert_allclose(scores, embeddings[rows] @ query, atol=1e-2)
            found.append(len(set(rows.tolist()) & set(oracle.search(query, 100)[0].tolist())) / 100)
        assert np.mean(found) >= 0.8

    def test_it_writes_no_pickle_and_survives_being_moved(self, built, tmp_path):
        embeddings, folder = built
        assert not list(folder.glob("*.pkl"))
        moved = folder.rename(tmp_path / "moved")
        try:
            index = open_index(moved, embeddings)
            assert isinstance(index, ScannIndex)
            assert len(index.search(embeddings[0], 5)[0]) == 5
        finally:
            moved.rename(folder)

    def test_a_pickle_in_an_index_is_refused(self, tmp_path):
        (tmp_path / "scann_docids.pkl").write_bytes(b"\x80\x04.")
        with pytest.raises(BundleError, match="holds pickles"):
            ScannIndex(tmp_path, 10)

    def test_an_index_without_its_assets_is_refused(self, tmp_path):
        with pytest.raises(BundleError) as caught:
            ScannIndex(tmp_path, 10)
        assert caught.value.problems == ("scann_assets.pbtxt is missing", "search.json is missing")

    def test_every_item_finds_itself_first(self, built):
        embeddings, folder = built
        index = ScannIndex(folder, len(embeddings))
        rows = np.random.default_rng(1).integers(0, len(embeddings), 200)
        assert np.mean([index.search(embeddings[row], 5)[0][0] == row for row in rows]) > 0.98

    def test_a_search_that_goes_less_far_finds_less(self, built, tmp_path):
        embeddings, folder = built
        copy = shutil.copytree(folder, tmp_path / "copy")
        set_effort(copy, Effort(0.01, 2))
        narrow, wide = ScannIndex(copy, len(embeddings)), ScannIndex(folder, len(embeddings))
        queries = unit_rows(50, 16, seed=8)
        found = [np.isin(narrow.search(q, 100)[0], wide.search(q, 100)[0]).mean() for q in queries]
        assert np.mean(found) < 0.6

    def test_an_index_of_another_size_is_refused(self, built):
        with pytest.raises(BundleError, match="20000 of 19999 items"):
            ScannIndex(built[1], 19_999)
