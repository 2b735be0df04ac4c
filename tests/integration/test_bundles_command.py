import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_fixture import build_tiny_bundle, tiny_fields
from typer.testing import CliRunner, Result

from serving.bundles.writer import BundleWriter
from serving.commands.bundle import app


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sieve.yaml"
    path.write_text("root: var\n")
    return path


def sieve_bundle(config: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments, obj=config)


def test_list_names_each_version_with_its_metrics(config: Path) -> None:
    assert "no bundles in" in sieve_bundle(config, "list").output
    bundle = build_tiny_bundle(config.parent / "var" / "bundles")
    output = sieve_bundle(config, "list").output
    assert bundle.name in output
    assert "ndcg@20 0.3100" in output


def test_list_goes_on_past_a_damaged_manifest(config: Path) -> None:
    bundle = build_tiny_bundle(config.parent / "var" / "bundles")
    (bundle / "manifest.json").write_text("{}")
    result = sieve_bundle(config, "list")
    assert result.exit_code == 0
    assert "manifest.json" in result.output


def test_show_prints_the_manifest_of_the_latest_version(config: Path) -> None:
    bundle = build_tiny_bundle(config.parent / "var" / "bundles")
    for arguments in (["show"], ["show", bundle.name], ["show", f"recommend/{bundle.name}"]):
        output = sieve_bundle(config, *arguments).output
        assert f"recommend/{bundle.name}" in output
        assert "models/ranker.onnx" in output
        assert "events 3" in output


def test_verify_passes_a_sound_bundle_and_lists_every_problem_of_a_damaged_one(config: Path) -> None:
    bundle = build_tiny_bundle(config.parent / "var" / "bundles")
    sound = sieve_bundle(config, "verify")
    assert (sound.exit_code, "is sound" in sound.output) == (0, True)
    for path in ("popular/rows.npy", "models/ranker.onnx"):
        content = bytearray((bundle / path).read_bytes())
        content[-1] ^= 1
        (bundle / path).write_bytes(content)
    damaged = sieve_bundle(config, "verify", bundle.name)
    assert damaged.exit_code == 1
    assert "2 problem(s)" in damaged.output
    assert "popular/rows.npy" in damaged.output
    assert "models/ranker.onnx" in damaged.output


def test_verify_prints_shapes_whole(config: Path) -> None:
    bundle = build_tiny_bundle(config.parent / "var" / "bundles")
    writer = BundleWriter(bundle)
    writer.write_array("popular/rows.npy", np.zeros((1, 50), np.int32))
    moved = bundle.with_name(writer.seal(tiny_fields()).version)
    bundle.rename(moved)
    assert "int32[9, any]" in sieve_bundle(config, "verify", moved.name).output


def test_looking_at_bundles_needs_no_training_library_and_no_ray() -> None:
    code = (
        "import sys, serving.commands.bundle, serving.bundles.bundle, serving.bundles.golden\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'feast', 'pyarrow', 'scipy', 'ray', 'onnx', 'training'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
