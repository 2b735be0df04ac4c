"""Running ONNX models so that the runtime's failures are dependency failures and misuse stays a bug."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime.capi import onnxruntime_pybind11_state as state

from serving.bundles.onnx_models import predict
from serving.errors import DependencyError

# InvalidArgument is left out on purpose: a wrong shape or name is a mistake in this code.
RUNTIME_FAILURES: tuple[type[Exception], ...] = (
    state.EngineError,
    state.EPFail,
    state.Fail,
    state.RuntimeException,
)


def run_model(session: Any, inputs: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The model's first output, float32; a score of shape [C, 1] comes back as [C].

    Raises:
        DependencyError: the runtime failed.
    """
    try:
        return predict(session, inputs)
    except RUNTIME_FAILURES as error:
        raise DependencyError(f"a model failed: {' '.join(str(error).split())[:300]}") from error
