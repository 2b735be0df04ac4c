import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from bundle_fixture import CREATED_AT, build_tiny_bundle, fill_draft, tiny_fields

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import Manifest, canonical_bytes, read_manifest
from serving.bundles.store import BundleStore
from serving.bundles.writer import BundleWriter
from serving.errors import BundleError


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("store"))


def test_versions_come_newest_first_and_drafts_are_not_among_them(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    assert store.versions("recommend") == []
    assert store.latest("recommend") is None
    made = [build_tiny_bundle(tmp_path, created_at=CREATED_AT + timedelta(days=d)).name for d in (1, 3, 2)]
    store.draft("recommend")
    assert store.versions("recommend") == [made[1], made[2], made[0]]
    assert store.latest("recommend") == made[1]
    assert store.path("recommend", "latest").name == made[1]
    assert store.apps() == ["recommend"]


def test_an_unknown_version_is_named_with_those_that_there_are(published: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle recommend/20990101T000000Z-000000000000") as caught:
        BundleStore(published.parent.parent).path("recommend", "20990101T000000Z-000000000000")
    assert caught.value.problems == (f"published: {published.name}",)


def test_a_version_is_not_looked_up_outside_the_store(published: Path) -> None:
    with pytest.raises(BundleError):
        BundleStore(published.parent.parent).path("recommend", f"../recommend/{published.name}")


def test_the_version_is_the_manifests_time_and_hash(published: Path) -> None:
    manifest = read_manifest(published)
    assert published.name == manifest.version
    assert published.name.startswith("20260401T000000Z-")


def test_a_draft_without_a_manifest_is_not_published_and_stays(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    draft = fill_draft(store.draft("recommend")).directory
    with pytest.raises(BundleError, match="must not be published"):
        store.publish("recommend", draft)
    assert draft.is_dir()
    assert store.versions("recommend") == []


def test_a_draft_changed_after_sealing_is_not_published(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    writer = fill_draft(store.draft("recommend"))
    writer.seal(tiny_fields())
    writer.write_bytes("models/ranker.onnx", b"")
    with pytest.raises(BundleError) as caught:
        store.publish("recommend", writer.directory)
    assert caught.value.problems[0].startswith("models/ranker.onnx: 0 bytes where")
    assert store.versions("recommend") == []


def test_a_published_version_is_never_replaced(published: Path, tmp_path: Path) -> None:
    store = BundleStore(published.parent.parent)
    twin = Path(shutil.copytree(published, tmp_path / "twin"))
    with pytest.raises(BundleError, match="is published already"):
        store.publish("recommend", twin)


def test_a_draft_of_another_application_is_refused(published: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(published, tmp_path / "twin"))
    with pytest.raises(BundleError) as caught:
        BundleStore(tmp_path / "store").publish("search", twin)
    assert caught.value.problems == ("it is made for recommend",)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system at /dev/shm")
def test_a_draft_on_another_file_system_is_refused_rather_than_copied(published: Path, tmp_path: Path) -> None:
    root = Path("/dev/shm") / f"sieve-bundles-{os.getpid()}"
    try:
        if root.parent.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the same file system")
        twin = Path(shutil.copytree(published, tmp_path / "twin"))
        with pytest.raises(BundleError, match="cannot move"):
            BundleStore(root).publish("recommend", twin)
        assert twin.is_dir()
        assert BundleStore(root).versions("recommend") == []
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_a_loaded_bundle_maps_its_arrays_and_knows_its_segments(published: Path) -> None:
    bundle = Bundle.load(published)
    assert bundle.version == published.name
    assert isinstance(bundle.item_embeddings, np.memmap)
    assert not bundle.item_embeddings.flags.writeable
    assert bundle.segment("US") == 1
    assert bundle.segment("XX") == bundle.segment(None) == 0
    assert bundle.ann_directory is None
    assert bundle.model_path("ranker").name == "ranker.onnx"
    assert bundle.catalogue.id_of(3) == "i0000003"
    with pytest.raises(BundleError, match="has no model reader"):
        bundle.model_path("reader")


def test_the_writer_refuses_paths_that_leave_the_draft(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "draft")
    for path in ("../x.npy", "/etc/x.npy", "a/../../x.npy", "manifest.json", "a//b.npy", "."):
        with pytest.raises(BundleError, match="must stay inside"):
            writer.write_bytes(path, b"")


def test_the_writer_refuses_arrays_of_python_objects(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="dtype object"):
        BundleWriter(tmp_path).write_array("a.npy", np.array(["a", None], dtype=object))


def test_all_mistakes_of_the_manifests_fields_are_told_at_once(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "draft")
    fields = tiny_fields() | {
        "app": "No such",
        "items": 0,
        "metrics": {"ndcg@20": float("nan")},
        "created_at": datetime(2026, 1, 1),
        "surprise": 1,
    }
    with pytest.raises(BundleError) as caught:
        writer.seal(fields)
    wrong = {problem.split(":")[0] for problem in caught.value.problems}
    assert wrong == {"app", "items", "metrics.ndcg@20", "created_at", "surprise"}
    assert not (tmp_path / "draft" / "manifest.json").exists()


def test_a_manifest_that_lists_a_model_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        BundleWriter(tmp_path / "draft").seal(tiny_fields())
    assert "model ranker: models/ranker.onnx is not among the files" in str(caught.value)


def test_a_manifests_bytes_do_not_depend_on_the_order_of_its_keys(published: Path) -> None:
    manifest = read_manifest(published)
    document = manifest.model_dump(mode="json")
    shuffled = dict(reversed(document.items())) | {"files": dict(reversed(document["files"].items()))}
    assert canonical_bytes(Manifest.model_validate(shuffled)) == (published / "manifest.json").read_bytes()


def test_a_bundle_without_a_given_time_is_stamped_with_the_current_second(tmp_path: Path) -> None:
    fields = tiny_fields()
    del fields["created_at"]
    before = datetime.now(UTC).replace(microsecond=0)
    manifest = fill_draft(tmp_path).seal(fields)
    assert before <= manifest.created_at <= datetime.now(UTC)
    assert manifest.created_at.microsecond == 0
