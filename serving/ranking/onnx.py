"""Running ONNX models so that the runtime's failures are dependency failures and misuse stays a bug."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime import RunOptions
from onnxruntime.capi import onnxruntime_pybind11_state as state

from serving.bundles.onnx_models import predict
from serving.core.deadline import NEVER_S, STAGE_DEADLINE_S
from serving.errors import DeadlineExceeded, DependencyError
from serving.ranking.watchdog import WATCHDOG

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
        DeadlineExceeded: the deadline of the running stage passed, and the run was ended.
    """
    at_s = STAGE_DEADLINE_S.get()
    if at_s == NEVER_S:
        return _run(session, inputs, None)
    options = RunOptions()
    key = WATCHDOG.enter(at_s, options)
    try:
        return _run(session, inputs, options)
    finally:
        WATCHDOG.leave(key)


def _run(
    session: Any, inputs: Mapping[str, npt.NDArray[np.float32]], options: RunOptions | None
) -> npt.NDArray[np.float32]:
    try:
        return predict(session, inputs, options)
    except RUNTIME_FAILURES as error:
        if options is not None and options.terminate:
            raise DeadlineExceeded("a model was still running at the stage's deadline") from error
        raise DependencyError(f"a model failed: {' '.join(str(error).split())[:300]}") from error
