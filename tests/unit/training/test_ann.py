import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from serving.bundles.verify import verify_bundle
from serving.retrieval.scann_index import MIN_ITEMS, WIDEST, ScannIndex, build_scann
from training.ann import build_ann

pytest.importorskip("scann", reason="ScaNN has Linux wheels only")


def clustered(items: int, dimension: int = 32, clusters: int = 100) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dimension))
    points = centres[rng.integers(0, clusters, items)] + 0.7 * rng.normal(size=(items, dimension))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_a_small_catalogue_gets_no_index(tmp_path: Path) -> None:
    assert build_ann(clustered(MIN_ITEMS), tmp_path / "ann") is None
    assert not (tmp_path / "ann").exists()


def test_a_large_catalogue_gets_an_index_that_finds_nearly_all_and_holds_no_pickle(tmp_path: Path) -> None:
    embeddings = clustered(25_000)
    report = build_ann(embeddings, tmp_path / "ann")
    assert report is not None
    assert report.recall[50] > 0.95
    assert report.recall[500] >= 0.92
    assert report.effort.share < WIDEST.share
    assert json.loads((tmp_path / "ann" / "search.json").read_text()) == asdict(report.effort)
    names = {path.name for path in (tmp_path / "ann").iterdir()}
    assert "scann_assets.pbtxt" in names
    assert not {name for name in names if name.endswith(".pkl")}


def test_an_index_still_loads_after_its_folder_was_moved(tmp_path: Path) -> None:
    embeddings = clustered(2_000)
    build_scann(embeddings, tmp_path / "draft" / "ann")
    before = ScannIndex(tmp_path / "draft" / "ann", 2_000).search(embeddings[17], 100)
    (tmp_path / "draft").rename(tmp_path / "published")
    after = ScannIndex(tmp_path / "published" / "ann", 2_000).search(embeddings[17], 100)
    assert len(after[0]) == 100
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


def test_a_bundle_with_an_index_of_other_items_is_refused(tmp_path: Path) -> None:
    from bundle_fixture import fill_draft, tiny_fields

    writer = fill_draft(tmp_path / "draft")
    build_scann(clustered(2_000), writer.directory / "ann")
    writer.seal(tiny_fields())
    assert verify_bundle(writer.directory, published=False) == ["ann: 2000 of 150 items"]
