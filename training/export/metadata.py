"""The last touches to an exported model: what its inputs are made of, and nothing of the machine it came from."""

from collections.abc import Mapping, Sequence

import onnx

from serving.bundles.manifest import FeatureEntry
from serving.bundles.onnx_models import feature_metadata
from serving.errors import BundleError

PRODUCER = "sieve"
IR_VERSION = 10
"""Read by every onnxruntime since 1.18."""


def finish_model(
    model: onnx.ModelProto,
    inputs: Mapping[str, Sequence[FeatureEntry]],
    properties: Mapping[str, str] | None = None,
) -> bytes:
    """Writes the features of the named inputs into the model's metadata and serialises it.

    Traces of the exporter (stack traces with file paths, names of scopes) are removed, so that the same model
    gives the same bytes anywhere.

    Raises:
        BundleError: a named input is missing or takes another number of features.
    """
    widths = {tensor.name: tensor.type.tensor_type.shape.dim[-1].dim_value for tensor in model.graph.input}
    problems = [
        f"input {name!r} takes {widths.get(name, 'no')} features, {len(features)} are named"
        for name, features in inputs.items()
        if widths.get(name) != len(features)
    ]
    if problems:
        raise BundleError("the exported model does not fit its features", problems)
    _forget_origin(model)
    for key, value in sorted({**feature_metadata(inputs), **(properties or {})}.items()):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _forget_origin(model: onnx.ModelProto) -> None:
    model.producer_name, model.producer_version, model.doc_string = PRODUCER, "", ""
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = PRODUCER, ""
    parts = (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
