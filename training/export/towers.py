"""The two-tower and the neural ranker as ONNX."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import onnx
import torch

from serving.bundles.manifest import FeatureEntry
from serving.retrieval.user_tower import POOLED_HISTORY
from training.export.metadata import finish_model
from training.models.neural_ranker import NeuralRanker
from training.models.two_tower import TwoTower


def export_user_tower(model: TwoTower, features: Sequence[FeatureEntry]) -> bytes:
    """ONNX bytes: `user` float32[B, Du] and `history` float32[B, d] to `embedding` float32[B, d].

    The metadata property `sieve.pooled_history` says how many newest items of a history are to be pooled.
    """
    user_width, _, _, dimension, _ = model.shape
    exported = _export(model.user_tower, {"user": user_width, "history": dimension}, "embedding")
    return finish_model(exported, {"user": features}, {"sieve.pooled_history": str(POOLED_HISTORY)})


def export_item_tower(model: TwoTower, features: Sequence[FeatureEntry]) -> bytes:
    """ONNX bytes: `item` float32[B, Di] and `id_embedding` float32[B, d] to `embedding` float32[B, d]."""
    _, item_width, _, dimension, _ = model.shape
    exported = _export(model.item_tower, {"item": item_width, "id_embedding": dimension}, "embedding")
    return finish_model(exported, {"item": features})


def export_neural_ranker(model: NeuralRanker, features: Sequence[FeatureEntry]) -> bytes:
    """ONNX bytes: `features` float32[C, F] to `score` float32[C]."""
    return finish_model(_export(model, {"features": model.shape[0]}, "score"), {"features": features})


def _export(module: torch.nn.Module, widths: Mapping[str, int], output: str) -> onnx.ModelProto:
    """Traces a module whose inputs are matrices of these widths and any number of rows."""
    rows = torch.export.Dim("rows", min=1)
    arguments = tuple(torch.zeros(2, width) for width in widths.values())
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            arguments,
            input_names=list(widths),
            output_names=[output],
            dynamic_shapes=tuple({0: rows} for _ in widths),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes about torchvision and axis names off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
