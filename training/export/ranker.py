"""The neural ranker as ONNX, node by node: what the candidates of a request share is computed once.

The first layer is linear, so its sum over the request's columns (user and context) is one row, and each candidate
adds that of its own columns. C candidates, Dq features of a request, Dc features of a candidate.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.bundles.layout import REQUEST, ranker_inputs
from serving.bundles.manifest import FeatureManifest
from serving.errors import BundleError
from training.export.metadata import finish_model
from training.models.layers import CLIP
from training.models.neural_ranker import NeuralRanker

OPSET = 20
STEEP = 1e30
"""x * STEEP cut at -1 and 1 is the sign of any x whose log(1 + |x|) is not 0: ONNX Runtime's Sign takes longer."""


def export_split_ranker(model: NeuralRanker, features: FeatureManifest) -> bytes:
    """ONNX bytes: `request` float32[1, Dq] and `candidate` float32[C, Dc] to `score` float32[C].

    `request` may also have a row for each candidate.

    Raises:
        BundleError: the model takes another number of features.
    """
    if model.shape[0] != len(features):
        problem = f"it takes {model.shape[0]} features, {len(features)} are named"
        raise BundleError("the ranker does not fit its features", [problem])
    graph, columns_of = _Graph(), _columns(features)
    bias = graph.constant("bias_0", _linear(model)[0].bias)
    for name, columns in columns_of.items():
        standard = _standardised(graph, name, model, columns)
        weight = graph.constant(f"{name}_weight", _linear(model)[0].weight[:, columns].T)
        # the sum over the request is the bias of the sum over each candidate
        bias = graph.add("Gemm", f"{name}_sum", standard, weight, bias)
    score = graph.add("Reshape", "score", _layers(graph, model, bias), graph.shape("flat", -1))
    inputs = {name: ["requests" if name == REQUEST else "rows", len(c)] for name, c in columns_of.items()}
    return finish_model(graph.model(inputs, score), ranker_inputs(features, split=True))


def split_rows(rows: NDArray[np.float32], features: FeatureManifest) -> dict[str, NDArray[np.float32]]:
    """Full rows float32[R, F] as such a model takes them: `request` float32[R, Dq], `candidate` float32[R, Dc]."""
    return {name: np.ascontiguousarray(rows[:, columns]) for name, columns in _columns(features).items()}


def _columns(features: FeatureManifest) -> dict[str, NDArray[np.integer]]:
    """Which columns of the matrix make up each input."""
    place = {name: i for i, name in enumerate(features.names)}
    inputs = ranker_inputs(features, split=True)
    return {name: np.array([place[entry.name] for entry in entries]) for name, entries in inputs.items()}


@dataclass
class _Graph:
    """Nodes and constants in the order in which they are added."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, output: str, *inputs: str) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output]))
        return output

    def constant(self, name: str, value: torch.Tensor | float) -> str:
        array: NDArray[np.float32] = np.ascontiguousarray(torch.as_tensor(value).detach().numpy(), np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def shape(self, name: str, *sizes: int) -> str:
        self.constants.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
        return name

    def model(self, inputs: dict[str, list[str | int]], output: str) -> onnx.ModelProto:
        tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        scores = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows"])
        graph = helper.make_graph(self.nodes, "ranker", tensors, [scores], self.constants)
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        return model


def _standardised(graph: _Graph, name: str, model: NeuralRanker, columns: NDArray[np.integer]) -> str:
    """What `Standardise` makes of these columns: sign(x) log(1 + |x|), centred, scaled and cut."""

    def of(part: str) -> str:
        return f"{name}_{part}"

    def number(part: str, value: float) -> str:
        return graph.constant(of(part), torch.tensor(value))

    mean = graph.constant(of("mean"), model.standardise.mean[columns])
    scale = graph.constant(of("scale"), model.standardise.scale[columns])
    one, minus_one = number("one", 1.0), number("minus_one", -1.0)
    steep = graph.add("Mul", of("steep"), name, number("factor", STEEP))
    sign = graph.add("Clip", of("sign"), steep, minus_one, one)
    size = graph.add("Add", of("size"), graph.add("Abs", of("absolute"), name), one)
    squashed = graph.add("Mul", of("squashed"), sign, graph.add("Log", of("log"), size))
    centred = graph.add("Sub", of("centred"), squashed, mean)
    scaled = graph.add("Mul", of("scaled"), centred, scale)
    return graph.add("Clip", of("standard"), scaled, number("low", -CLIP), number("high", CLIP))


def _layers(graph: _Graph, model: NeuralRanker, first: str) -> str:
    """The layers after the first, whose sums are `first`."""
    hidden = first
    for i, layer in enumerate(_linear(model)[1:], start=1):
        active = graph.add("Relu", f"active_{i}", hidden)
        weight = graph.constant(f"weight_{i}", layer.weight.T)
        hidden = graph.add("Gemm", f"sum_{i}", active, weight, graph.constant(f"bias_{i}", layer.bias))
    return hidden


def _linear(model: NeuralRanker) -> list[torch.nn.Linear]:
    return [layer for layer in model.layers if isinstance(layer, torch.nn.Linear)]
