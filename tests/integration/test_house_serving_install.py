"""The default serving environment is light: what `locks/serving.txt` installs runs every serving module."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING_ONLY = ("torch", "mlflow", "pandas", "feast", "deltalake", "duckdb", "xgboost", "pyarrow", "scipy")

IMPORT_ALL = f"""
import importlib, importlib.util, json, pkgutil, sys
import serving
for module in pkgutil.walk_packages(serving.__path__, "serving."):
    importlib.import_module(module.name)
installed = [name for name in {TRAINING_ONLY!r} if importlib.util.find_spec(name)]
print(json.dumps({{"installed": installed, "modules": sum(m.startswith("serving.") for m in sys.modules)}}))
"""


@pytest.fixture(scope="module")
def serving_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the serving lock and the project in it, nothing else."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not beside this interpreter: run through `make test`")
    environment = tmp_path_factory.mktemp("serving") / "venv"
    python = environment / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, environment],
        [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", ROOT / "locks/serving.txt"],
        [uv, "pip", "install", "--quiet", "--python", python, "--no-deps", ROOT],
    ):
        subprocess.run([str(part) for part in command], check=True, timeout=600)
    return python


def _run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(python), *arguments], capture_output=True, text=True, timeout=300, cwd=cwd)


def test_every_serving_module_imports_without_the_training_libraries(serving_python: Path, tmp_path: Path) -> None:
    done = _run(serving_python, "-c", IMPORT_ALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["installed"] == []
    assert report["modules"] > 20


def test_the_serving_command_offers_serving_and_no_training(serving_python: Path, tmp_path: Path) -> None:
    done = _run(serving_python, "-m", "serving.cli", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout
    assert "train" not in done.stdout
