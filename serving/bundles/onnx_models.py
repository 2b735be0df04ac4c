"""ONNX files of a bundle: opening them, and what their own metadata says of their features.

The metadata property `sieve.inputs` is JSON: for each input made of features, their list in order as
`{"name", "dtype", "default"}`. So a model says by itself what it must be fed.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from serving.bundles.manifest import FeatureEntry, Manifest, ModelEntry, TensorEntry
from serving.errors import BundleError

METADATA_KEY = "sieve.inputs"
CUDA = "CUDAExecutionProvider"

Device = Literal["cpu", "cuda"]

log = logging.getLogger(__name__)


def feature_metadata(inputs: Mapping[str, Sequence[FeatureEntry]]) -> dict[str, str]:
    """The metadata properties of a model whose named inputs are made of these features."""
    document = {
        name: [{"name": entry.name, "dtype": "float32", "default": entry.default} for entry in entries]
        for name, entries in inputs.items()
    }
    return {METADATA_KEY: json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False)}


def open_session(path: Path, threads: int = 1, device: Device = "cpu") -> Any:
    """Opens an ONNX file as an `onnxruntime.InferenceSession`.

    Args:
        threads: of one run on the CPU.
        device: `cuda` runs on the first GPU; where the runtime has none it warns and the CPU takes its place.

    Raises:
        BundleError: the file is missing or no model that this runtime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device == "cuda" and _has_cuda():
        providers.insert(0, CUDA)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the runtime's error classes have no base of their own
        raise BundleError(f"{path} cannot be run", [_one_line(error)]) from error
    if len(providers) > len(session.get_providers()):
        _warn_of_cpu("the GPU could not be used")
    return session


def predict(session: Any, inputs: Mapping[str, np.ndarray], options: Any = None) -> np.ndarray:
    """Runs a model and gives its first output, float32; a score of shape [C, 1] comes back as [C].

    options: the run's `onnxruntime.RunOptions`, if any.
    """
    output: np.ndarray = session.run(None, inputs, options)[0]
    if output.dtype != np.float32:
        output = output.astype(np.float32)
    return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output


def _has_cuda() -> bool:
    import onnxruntime

    found = CUDA in onnxruntime.get_available_providers()
    if not found:
        _warn_of_cpu("this onnxruntime has no CUDA provider")
    return found


@cache
def _warn_of_cpu(reason: str) -> None:
    log.warning("models run on the CPU instead of the GPU: %s", reason)


def model_problems(session: Any, model: ModelEntry, manifest: Manifest) -> list[str]:
    """Where a model's inputs, outputs and metadata differ from the manifest, one line each."""
    problems = []
    found = {tensor.name: tensor for tensor in session.get_inputs()}
    for wanted in model.inputs:
        problems += _tensor_problems("input", wanted, found.pop(wanted.name, None))
    problems += [f"takes an input {name!r} that the manifest does not list" for name in found]
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    for wanted in model.outputs:
        problems += _tensor_problems("output", wanted, outputs.get(wanted.name))
    if model.outputs and next(iter(outputs), None) != model.outputs[0].name:
        problems.append(f"its first output must be {model.outputs[0].name!r}")
    return problems + _metadata_problems(session, model, manifest)


def _tensor_problems(kind: str, wanted: TensorEntry, found: Any) -> list[str]:
    if found is None:
        return [f"lacks the {kind} {wanted.name!r}"]
    problems = []
    if found.type != "tensor(float)":
        problems.append(f"{kind} {wanted.name!r} is {found.type}, not float32")
    sizes = tuple(size if isinstance(size, int) else None for size in found.shape)
    if kind == "output" and len(sizes) == len(wanted.shape) + 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if sizes != wanted.shape:
        problems.append(f"{kind} {wanted.name!r} has the shape {list(sizes)} where {list(wanted.shape)} is listed")
    return problems


def _metadata_problems(session: Any, model: ModelEntry, manifest: Manifest) -> list[str]:
    defaults = {entry.name: entry for entry in manifest.features.entries}
    content = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    try:
        document = json.loads(content) if content else {}
        listed = {name: [_entry(item) for item in items] for name, items in document.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"its metadata {METADATA_KEY!r} cannot be read"]
    problems = []
    for tensor in model.inputs:
        wanted = [("float32", defaults[name]) for name in tensor.features if name in defaults]
        unknown = [name for name in tensor.features if name not in defaults]
        problems += [f"input {tensor.name!r} needs the feature {name}, which no view has" for name in unknown]
        if not unknown and (difference := _difference(wanted, listed.pop(tensor.name, []))):
            problems.append(f"input {tensor.name!r}: {difference}")
    return problems + [f"its metadata lists features of an unknown input {name!r}" for name in listed]


def _entry(item: Mapping[str, Any]) -> tuple[str, FeatureEntry]:
    return str(item["dtype"]), FeatureEntry(name=item["name"], default=item["default"])


def _difference(wanted: list[tuple[str, FeatureEntry]], listed: list[tuple[str, FeatureEntry]]) -> str | None:
    """The first difference between the manifest's features and the model's own, None when they agree."""
    if wanted == listed:
        return None
    want, have = [entry.name for _, entry in wanted], [entry.name for _, entry in listed]
    lost, added = sorted(set(want) - set(have)), sorted(set(have) - set(want))
    if lost or added:
        parts = [f"lacks {', '.join(lost[:5])}"] * bool(lost) + [f"adds {', '.join(added[:5])}"] * bool(added)
        return f"{len(have)} features in its metadata, {len(want)} in the manifest: {' and '.join(parts)}"
    if want != have:
        place = next(i for i, pair in enumerate(zip(want, have, strict=False)) if pair[0] != pair[1])
        return f"feature {place} is {have[place]} in its metadata and {want[place]} in the manifest"
    name = next(w[1].name for w, h in zip(wanted, listed, strict=True) if w != h)
    return f"the dtype or default of {name} differs from the manifest's"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
