"""Does the exported model say what the trained one says?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import BundleError

TOLERANCE = 1e-4
ORDER_GAP = 1e-3


@dataclass(frozen=True)
class Parity:
    """How far ONNX and native outputs are apart.

    `max_relative_error` is the largest |onnx - native| / max(|native|, rms of native). `order_agreement` is the
    share, 0 to 1, of rows that ONNX puts above every row whose native score is lower by more than 1e-3.
    """

    max_relative_error: float
    order_agreement: float


def check_parity(
    what: str, native: NDArray[np.float32], onnx_bytes: bytes, inputs: Mapping[str, NDArray[np.float32]]
) -> Parity:
    """Runs a model on `inputs` in onnxruntime and compares its first output with `native`.

    `native` is float32[R] of scores, or float32[R, d] of embeddings, whose order is not looked at. NaN in the
    same place on both sides is agreement.

    Raises:
        BundleError: another shape, an error above 1e-4, or any order that differs; with the numbers.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    found = np.asarray(session.run(None, dict(inputs))[0])
    if found.shape != native.shape:
        raise BundleError(f"{what}: ONNX differs from the model", [f"shape {found.shape}, not {native.shape}"])
    parity = compare(native, found)
    problems = []
    if not parity.max_relative_error <= TOLERANCE:
        problems.append(f"max relative error {parity.max_relative_error:.3g} is above {TOLERANCE:g}")
    if parity.order_agreement < 1:
        problems.append(f"only {parity.order_agreement:.4%} of the order agrees where gaps exceed {ORDER_GAP:g}")
    if problems:
        raise BundleError(f"{what}: ONNX differs from the model", problems)
    return parity


def compare(native: NDArray[np.floating], found: NDArray[np.floating]) -> Parity:
    """The distance of two outputs of one shape; nothing at all is perfect agreement."""
    both_nan = np.isnan(native) & np.isnan(found)
    wanted = np.where(both_nan, 0, native).astype(np.float64)
    difference = np.abs(np.where(both_nan, 0, found) - wanted)
    if not wanted.size:
        return Parity(0.0, 1.0)
    scale = np.maximum(np.abs(wanted), np.sqrt(np.mean(wanted**2)))
    error = float(np.max(difference / np.maximum(scale, 1e-12)))
    return Parity(error, _order_agreement(wanted, np.asarray(found)) if native.ndim == 1 else 1.0)


def _order_agreement(wanted: NDArray[np.float64], found: NDArray[np.floating]) -> float:
    order = np.argsort(wanted, kind="stable")
    wanted, found = wanted[order], found[order]
    below = np.searchsorted(wanted, wanted - ORDER_GAP, side="left")
    compared = below > 0
    highest_below = np.maximum.accumulate(found)[below[compared] - 1]
    return float(np.mean(found[compared] > highest_below)) if compared.any() else 1.0
